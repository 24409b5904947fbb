"""What a finished run says about clips: figures on the test split, and the table of an evaluation set."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from common import stages
from common.audio_model import AudioModel
from common.checkpoints import load_weights
from common.data import make_loader
from common.errors import UserError
from common.files import atomic_write, write_json
from common.stages import Run, read_record
from common.synthetic import is_made_up
from common.yaml_file import read_yaml
from task1_asc.data import (
    CLASSES,
    DEVICES,
    SceneClips,
    development_folder,
    evaluation_folder,
    is_made_up_data,
    pack_data,
    read_evaluation,
    read_split,
    store_folder,
)
from task1_asc.metrics import score_scenes
from task1_asc.settings import Task1Settings
from task1_asc.train import classify, make_model, order_for

PREDICTIONS = "predictions"


def open_run(folder: Path) -> Run:
    """The run of this task in a folder; see `common.stages.open_run`."""
    return stages.open_run(folder, Task1Settings)


def score_network(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Score the trained network on the test split, in single precision and as the baseline does in half precision.

    Reads train/{best,last}.ckpt. Writes test/evaluation.json and test/logits.npz (float32 and float16 logits, targets,
    file names).
    """
    clips = read_split(settings.data.root, "test")
    dataset = open_clips(settings, clips, development_folder(settings.data.root))
    model = load_run_model(run, dataset.sample_rate)
    loader = make_loader(dataset, settings.loader.batch_size, num_workers=settings.loader.num_workers)
    single, half, filenames = classify(model, loader, limit=2 if fast_check else None)
    clips = clips.iloc[: len(filenames)]
    target = np.array([CLASSES.index(label) for label in clips["scene_label"]])
    scores = {
        precision: score_scenes(
            logits, target, clips["source_label"], clips["segment"], np.random.default_rng(settings.seed)
        )
        for precision, logits in (("float32", single), ("float16", half))
    }
    folder = run.folder / "test"
    with atomic_write(folder / "logits.npz", "wb") as file:
        np.savez_compressed(file, float32=single, float16=half, target=target, filename=np.array(filenames))
    write_json(
        folder / "evaluation.json",
        {"subset": settings.subset, "seed": settings.seed, "made_up": is_made_up_data(settings.data.root), **scores},
    )


def read_scores(run: Run) -> dict[str, Any]:
    """The content of test/evaluation.json: subset, seed, made_up, and the figures of `score_scenes` per precision.

    Raises:
        UserError: if the run is not finished.
    """
    read_record(run.folder, "test")
    return json.loads((run.folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


def predict(run: Run, root: Path, year: int = 2024, precision: str = "float16") -> Path:
    """Write the table of probabilities of an evaluation set.

    Args:
        run: finished.
        root: folder of the evaluation set, or the one that holds it.
        year: of the evaluation set.
        precision: of the network: float16 as in the baseline, or float32.

    Returns:
        RUN/predictions/output.csv: tab-separated, columns filename (without folder), scene_label, then one probability
        per class; rows in the order of the set's list. predictions.json beside it says how it was made.
    """
    settings = run.settings
    clips, folder = read_evaluation(root, year), evaluation_folder(root, year)
    # The set is read once, so packing would be no gain; a store that is there is used.
    store = store_folder(root, settings.data.sample_rate, evaluation=year)
    dataset = SceneClips(clips[["filename"]], folder, store if (store / "store.json").is_file() else None)
    model = load_run_model(run, dataset.sample_rate)
    loader = make_loader(dataset, settings.loader.batch_size, num_workers=settings.loader.num_workers)
    single, half, filenames = classify(model, loader)
    path = run.folder / PREDICTIONS / "output.csv"
    write_predictions(path, filenames, half if precision == "float16" else single)
    facts = {"precision": precision, "made_up": is_made_up(folder), "year": year, "clips": len(filenames)}
    write_json(path.with_name("predictions.json"), facts)
    return path


def write_predictions(path: Path, filenames: list[str], logits: np.ndarray) -> None:
    """Write the official table of an evaluation set; logits (clips, 10), of any precision."""
    # Softmax in double precision: in half precision, as in the baseline, probabilities have three digits or are 0.
    probabilities = softmax(logits.astype(np.float64), axis=1)
    table = pd.DataFrame(probabilities, columns=list(CLASSES))
    table.insert(0, "filename", [Path(name).name for name in filenames])
    table.insert(1, "scene_label", [CLASSES[number] for number in logits.argmax(axis=1)])
    with atomic_write(path) as file:
        table.to_csv(file, sep="\t", index=False, float_format="%.9f", lineterminator="\n")


def open_clips(settings: Task1Settings, clips: pd.DataFrame, folder: Path) -> SceneClips:
    """Clips of the development set, out of the packed store where the settings say so; it is made when absent."""
    if not settings.data.packed:
        return SceneClips(clips, folder)
    pack_data(settings.data.root, settings.data.sample_rate)
    return SceneClips(clips, folder, store_folder(settings.data.root, settings.data.sample_rate))


def load_run_model(run: Run, sample_rate: int) -> AudioModel:
    """The trained model of a run in evaluation mode, on the GPU where there is one."""
    settings = run.settings
    name = "best.ckpt" if settings.data.validation is not None else "last.ckpt"
    path = run.folder / "train" / name
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    model = make_model(settings, sample_rate)
    load_weights(model.network, path, "network." if settings.optim.average_decay is None else "average.")
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    order_for(model.network, device)
    return model.eval().to(device)


@cache
def read_published() -> dict[str, Any]:
    """Figures of the published baseline, see published.yaml."""
    return read_yaml(Path(__file__).parent / "published.yaml").data


def summary_rows(run: Run) -> list[dict[str, Any]]:
    """Macro accuracy, accuracy of device groups and log loss, in both precisions, beside the published baseline."""
    scores, subset = read_scores(run), run.settings.subset
    rows = []
    for precision in ("float32", "float16"):
        figures = scores[precision]
        row = {"precision": precision, "macro accuracy in %": percent(figures["macro_accuracy"])}
        row |= {name: percent(_interval(part)) for name, part in figures["groups"].items()}
        rows.append(row | {"log loss": f"{figures['log_loss']['value']:.3f}", "clips": figures["clips"]})
    published = read_published()
    macro = f"{published['macro_accuracy'][subset]:.1f} ± {published['macro_accuracy_spread'][subset]:.1f}"
    return [*rows, {"precision": "published", "macro accuracy in %": macro}]


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Accuracy of each class."""
    return _part_rows(run, "class_wise", CLASSES, "class")


def device_rows(run: Run) -> list[dict[str, Any]]:
    """Accuracy of each recording device."""
    return _part_rows(run, "device_wise", DEVICES, "device")


def percent(interval: dict[str, float | None]) -> str:
    """{value, low, high} to "42.4 (41.0 .. 43.8)"; nothing where there is no value."""
    if interval["value"] is None:
        return ""
    value, low, high = (100 * (interval[key] or 0) for key in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} .. {high:.1f})"


def _part_rows(run: Run, group: str, names: tuple[str, ...], title: str) -> list[dict[str, Any]]:
    scores, published = read_scores(run), read_published()[group][run.settings.subset]
    return [
        {
            title: name,
            **{precision: percent(_interval(scores[precision][group][name])) for precision in ("float32", "float16")},
            "published": f"{published[number]:.1f}",
            "clips": scores["float32"][group][name]["clips"],
        }
        for number, name in enumerate(names)
    ]


def _interval(part: dict[str, Any]) -> dict[str, float | None]:
    return {"value": part["accuracy"], "low": part["accuracy_low"], "high": part["accuracy_high"]}

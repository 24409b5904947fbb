"""The test of a run, and the table of an evaluation set."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from common.data.files import atomic_write, compute_sha256, is_made_up, write_json, write_text
from common.data.loading import make_loader
from common.errors import UserError
from common.inference.prepare import computing_in
from common.models.network import choose_device
from common.runs.run import Run
from task1_asc.data.clips import open_clips, open_development, scene_loader, store_folder
from task1_asc.data.tau2022 import (
    CLASSES,
    DEVELOPMENT,
    development_folder,
    evaluation_folder,
    is_made_up_data,
    read_evaluation,
    read_named_clips,
    read_split,
)
from task1_asc.metrics import score_scenes
from task1_asc.networks.build import make_front_end, networks_by_precision
from task1_asc.networks.classify import DeviceNetworks, GeneralOnly, InHalf, classify_with
from task1_asc.settings import Task1Settings

PREDICTIONS = "predictions"
BATCH_SIZE = 64


def score_network(run: Run[Task1Settings], settings: Task1Settings, fast_check: bool = False) -> None:
    """Score the trained networks on the test split in float32, in float16 (as the baseline) and in int8.

    With copies for devices, each clip goes to the copy of its device, and the general network is scored as well. Reads
    train/, devices/, quantize/. Writes test/evaluation.json and test/logits.npz (logits of each precision, targets,
    file names).
    """
    clips = read_split(settings.data.root, "test")
    dataset = open_development(settings, clips)
    front_end, networks = networks_by_precision(run, dataset.sample_rate)
    if settings.device_tuning is not None:
        networks |= {f"general_{name}": GeneralOnly(own) for name, own in networks.items()}
    logits, filenames = classify_with(
        front_end,
        networks,
        scene_loader(settings, dataset),
        limit=2 if fast_check else None,
        device=choose_device(settings.trainer),
    )
    clips = clips.iloc[: len(filenames)]
    target = np.array([CLASSES.index(label) for label in clips["scene_label"]])
    scores = {
        name: score_scenes(own, target, clips["source_label"], clips["segment"], np.random.default_rng(settings.seed))
        for name, own in logits.items()
    }
    general = {name.removeprefix("general_"): scores.pop(name) for name in list(scores) if name.startswith("general_")}
    if general:
        scores["general"] = general
    folder = run.folder / "test"
    with atomic_write(folder / "logits.npz", "wb") as file:
        arrays: dict[str, Any] = {"target": target, "filename": np.array(filenames), **logits}
        np.savez_compressed(file, **arrays)
    write_json(
        folder / "evaluation.json",
        {"subset": settings.subset, "seed": settings.seed, "made_up": is_made_up_data(settings.data.root), **scores},
    )


def score_weights(name: str, weights: Path, root: Path) -> dict[str, Any]:
    """Figures of a network with weights from any source, in float32 and float16.

    Args:
        name: architecture of the registry, such as cp_mobile.
        weights: state dict or Lightning checkpoint; names may have any prefix.
        root: of the official data, for the test split, or a folder of clips with official names.

    Raises:
        UserError: if the weights do not fit, or the clips are not labelled.
    """
    from common.registry import load_audio_model

    official = (root / DEVELOPMENT).is_dir() or (root / "meta.csv").is_file()
    clips = read_split(root, "test") if official else read_named_clips(root)
    dataset = open_clips(clips, development_folder(root) if official else root)
    device = choose_device()
    network = load_audio_model(name, weights, num_classes=len(CLASSES)).network.to(device)
    front_end = make_front_end(name, dataset.sample_rate).eval().to(device)
    single = DeviceNetworks(network).eval()
    networks = {"float32": single, "float16": InHalf(single)}
    logits, _ = classify_with(front_end, networks, make_loader(dataset, BATCH_SIZE), device=device)
    target = np.array([CLASSES.index(label) for label in clips["scene_label"]])
    facts = clips["source_label"], clips["segment"]
    scores = {key: score_scenes(own, target, *facts, np.random.default_rng(0)) for key, own in logits.items()}
    return {"made_up": is_made_up_data(root), **scores}


def predict(run: Run[Task1Settings], root: Path, year: int = 2024, precision: str | None = None) -> Path:
    """Write the table of probabilities of an evaluation set.

    Args:
        run: finished.
        root: folder of the evaluation set, or the one that holds it.
        year: of the evaluation set. The set of 2025 names devices, which a device-aware run uses.
        precision: of the network: float32, float16, bf16, auto (see `computing_in`), or int8 for a quantised run; None
            takes the precision that is submitted.

    Returns:
        RUN/predictions/output.csv: tab-separated, columns filename (without folder until 2024), scene_label, then one
        probability per class; rows in the order of the set's list. predictions.json beside it describes it.
    """
    settings = run.settings
    precision = precision or settings.precision
    clips, folder = read_evaluation(root, year), evaluation_folder(root, year)
    # The set is read once, so packing it first would gain nothing.
    store = store_folder(root, settings.data.sample_rate, evaluation=year)
    unlabelled = clips[[column for column in ("filename", "device_id") if column in clips.columns]]
    dataset = open_clips(unlabelled, folder, store if (store / "store.json").is_file() else None)
    front_end, networks = networks_by_precision(run, dataset.sample_rate)
    network = "float32" if precision in ("bf16", "auto") else precision
    if network not in networks:
        raise UserError(f"{run.folder} is not quantised; its settings have no quantization. Take float16 or float32.")
    chosen, loader = {precision: networks[network]}, scene_loader(settings, dataset)
    with computing_in(precision):
        logits, filenames = classify_with(front_end, chosen, loader, device=choose_device(settings.trainer))
    path = run.folder / PREDICTIONS / "output.csv"
    write_predictions(path, filenames, logits[precision], keep_folder=year >= 2025)
    facts = {"precision": precision, "made_up": is_made_up(folder), "year": year, "clips": len(filenames)}
    facts["tested_sha256"] = compute_sha256(run.folder / "test" / "stage.json")
    write_json(path.with_name("predictions.json"), facts)
    return path


def write_predictions(path: Path, filenames: list[str], logits: np.ndarray, keep_folder: bool = False) -> None:
    """Write the official table of an evaluation set; logits (clips, 10), of any precision.

    keep_folder: keep the folder in file names, audio/0.wav, as in 2025.
    """
    # Softmax in double precision: in half precision, as in the baseline, probabilities have three digits or are 0.
    probabilities = softmax(logits.astype(np.float64), axis=1)
    table = pd.DataFrame(probabilities, columns=list(CLASSES))
    table.insert(0, "filename", [name if keep_folder else Path(name).name for name in filenames])
    table.insert(1, "scene_label", [CLASSES[number] for number in logits.argmax(axis=1)])
    write_text(path, table.to_csv(sep="\t", index=False, float_format="%.9f", lineterminator="\n"))

"""What a finished run says about clips: scores of the test sets, their figures, and the tables of an evaluation set."""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from common.data.audio import list_audio
from common.data.loading import make_loader
from common.errors import UserError
from common.files import write_json
from common.output import say
from common.runs import stages
from common.runs.energy import EnergyMeter
from common.runs.stages import Run, read_record
from common.settings.yaml_file import read_yaml
from common.training.checkpoints import weights_of
from task4_sed.baseline.train import MeanTeacherTraining, SoundEventTraining
from task4_sed.data.annotations import read_events
from task4_sed.data.clips import SoundEventClips, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.sets import (
    SETS,
    ClipSet,
    audio_folder,
    is_made_up_data,
    label_file,
    missing_sentence,
    no_events,
    published_clips,
    read_set,
    set_durations,
)
from task4_sed.metrics.cross_check import versions
from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.metrics.f1 import collar_f1, intersection_f1
from task4_sed.metrics.polyphonic import PSDS1, PSDS2, polyphonic_scores
from task4_sed.metrics.segments import mean_partial_auc, rank_interval, rank_score, segment_f1
from task4_sed.postprocessing.finisher import Finisher, plain_boxes, tune_finisher
from task4_sed.scores.store import ScoreWriter
from task4_sed.scores.store import read_scores as read_store
from task4_sed.scores.tables import ScoreTables, write_score_tables
from task4_sed.scoring import evaluated_classes
from task4_sed.settings import SystemSettings, Task4Settings

PREDICTIONS = "predictions"
FIGURES = ("psds1", "psds2", "collar_f1", "intersection_f1", "mpauc", "segment_f1")
"""Names of the figures, of DESED sets and of MAESTRO."""
DRAWS = 1000


def open_run(folder: Path) -> Run:
    """The run of this task in a folder; see `common.runs.stages.open_run`."""
    return stages.open_run(folder, Task4Settings)


def score_network(run: Run, settings: Task4Settings, fast_check: bool = False) -> None:
    """Score the test sets with student and teacher, raw and post-processed.

    Reads train/{best,last}.ckpt. Writes test/scores/<set>_<network>.h5 (raw logits), test/evaluation.json, with event
    boxes test/boxes.json, and the energy of the inference in test/energy.json.
    """
    module = load_module(run)
    folder = run.folder / "test"
    names = test_sets(settings)
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        missing = {name: _score_set(module, settings, name, folder / "scores", fast_check) for name in names}
    networks = ["student"] if settings.teacher is None else ["student", "teacher"]
    write_evaluation(folder, settings, networks, missing)


def write_evaluation(folder: Path, settings: SystemSettings, networks: Sequence[str], missing: dict[str, int]) -> None:
    """Figures of raw and post-processed scores in `folder`/evaluation.json, and what post-processing was tuned to.

    Intervals are worked out for the network that is handed in, where there are more than two.

    Args:
        folder: with scores/<set>_<network>.h5.
        settings: of the run.
        networks: whose scores there are.
        missing: test sets, and how many of their clips are missing.
    """
    found = {}
    for network in networks:
        raw = {name: read_store(_store(folder, name, network)) for name in missing}
        finisher = tune_finisher(raw.get("validation"), *_reference(settings, "validation"), settings)
        if network == settings.network and finisher.boxes is not None:
            write_json(folder / "boxes.json", plain_boxes(finisher.boxes))
        finished = {name: finisher.of_set(scores, name) for name, scores in raw.items()}
        draws = DRAWS if network == settings.network or len(networks) <= 2 else 0
        found[network] = {
            "raw": _all_figures(raw, settings, missing, draws),
            "postprocessed": _all_figures(finished, settings, missing, draws),
        }
    made_up = is_made_up_data(settings.data.root)
    facts = {"seed": settings.seed, "made_up": made_up, "network": settings.network, "versions": versions()}
    write_json(folder / "evaluation.json", {**facts, "networks": found})


def test_sets(settings: SystemSettings) -> list[str]:
    """Sets that a run is tested on: validation, MAESTRO where its classes are known, public evaluation where it is."""
    names = ["validation"]
    if evaluated_classes(settings, maestro=True):
        names.append("maestro_validation")
    try:
        audio_folder(settings.data.root, "public_evaluation")
    except UserError:
        return names
    return [*names, "public_evaluation"]


def read_scores(run: Run) -> dict[str, Any]:
    """The content of test/evaluation.json.

    seed, made_up, network (that is handed in), versions, and by network and "raw" or "postprocessed": per set
    `FIGURES` with value, per_class and interval, and clips; `rank_score`.

    Raises:
        UserError: if the run is not finished.
    """
    read_record(run.folder, "test")
    return json.loads((run.folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


def load_module(run: Run) -> SoundEventTraining:
    """Student and teacher of a run in evaluation mode, on the GPU where there is one."""
    settings = run.settings
    choice = settings.validation
    name = "best.ckpt" if choice.weak or choice.synthetic or choice.maestro else "last.ckpt"
    path = run.folder / "train" / name
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    frozen = load_frozen(settings.embedding) if settings.embeddings == "live" else None
    module = SoundEventTraining(settings, frozen)
    try:
        module.load_state_dict(weights_of(path))
    except RuntimeError as error:
        raise UserError(f"The weights in {path} are those of another network: {str(error).splitlines()[-1]}") from error
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return module.eval().to("cuda" if use_gpu else "cpu")


def predict(run: Run, root: Path) -> Path:
    """Score the clips of an evaluation set.

    Args:
        run: finished.
        root: of a tree with audio/eval24, or a folder of audio files.

    Returns:
        RUN/predictions: unprocessed/<clip>.tsv, postprocessed/<clip>.tsv, predictions.json (network, made_up, seconds
        of each clip).
    """
    settings = run.settings
    read_record(run.folder, "test")
    clips = evaluation_clips(Path(root))
    dataset = SoundEventClips(clips, Path(root), settings.labels, packed=False)
    folder = run.folder / PREDICTIONS
    store = folder / "logits.h5"
    (_predict if isinstance(settings, Task4Settings) else _predict_with_transformers)(run, dataset, store)
    raw = read_store(store)
    finished = read_finisher(run).of_new(raw)
    for name, tables in (("unprocessed", raw), ("postprocessed", finished)):
        for old in (folder / name).glob("*.tsv"):
            old.unlink()
        write_score_tables(tables, folder / name, fill_value=0.0)
    durations = {name: float(seconds) for name, seconds in zip(clips.filenames, dataset.durations)}
    facts = {"network": settings.network, "made_up": is_made_up_data(Path(root)), "durations": durations}
    write_json(folder / "predictions.json", facts)
    return folder


def _predict(run: Run, dataset: SoundEventClips, store: Path) -> None:
    """Logits of clips by the network that is handed in."""
    settings, module = run.settings, load_module(run)
    if settings.embeddings == "cached":
        module.use_frozen(load_frozen(settings.embedding))
    loader = make_loader(dataset, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.network: store}, settings.labels.classes)


def _predict_with_transformers(run: Run, dataset: SoundEventClips, store: Path) -> None:
    from task4_sed.iterations.scores import predict_logits

    predict_logits(run, dataset, store)


def evaluation_clips(root: Path) -> ClipSet:
    """Clips of audio/eval24 below `root`, or of `root` itself."""
    try:
        folder = audio_folder(root, "eval24")
    except UserError:
        folder = root
    filenames = tuple(str(path.relative_to(folder)) for path in list_audio(folder))
    nested = [name for name in filenames if "/" in name]
    if nested:
        raise UserError(f"{folder} has no audio/eval24, and its clips lie in further folders ({nested[0]}).")
    return ClipSet("eval24", folder, filenames, no_events())


def read_finisher(run: Run) -> Finisher:
    """The post-processing of a finished run."""
    path = run.folder / "test" / "boxes.json"
    boxes = json.loads(path.read_text(encoding="utf-8")) if run.settings.postprocessing.boxes is not None else None
    return Finisher.read(run.settings, boxes)


def read_published(settings: SystemSettings | None = None) -> dict[str, Any]:
    """Figures of the published system whose recipe a run has, see published.yaml; without settings of the baseline."""
    published = _published()
    if settings is None or isinstance(settings, Task4Settings):
        return published
    return published["two_iterations"]


@cache
def _published() -> dict[str, Any]:
    return read_yaml(Path(__file__).parent / "published.yaml").data


def desed_figures(scores: ScoreTables, settings: SystemSettings, name: str, draws: int = DRAWS) -> dict[str, Any]:
    """PSDS1, PSDS2, collar and intersection F1 of a DESED set: value, per_class, interval; and clips."""
    jobs = len(os.sched_getaffinity(0))
    events, durations = _reference(settings, name)
    evaluation = evaluation_set(scores, events, durations, classes=evaluated_classes(settings, False), jobs=jobs)
    psds1, psds2 = polyphonic_scores(evaluation, [PSDS1, PSDS2], draws=draws, jobs=jobs)
    collar, overlap = (f1(evaluation, draws=draws, jobs=jobs) for f1 in (collar_f1, intersection_f1))
    found = {"psds1": psds1, "psds2": psds2, "collar_f1": collar, "intersection_f1": overlap}
    figures: dict[str, Any] = {
        key: {"value": part.value, "per_class": part.per_class, "interval": part.interval}
        for key, part in found.items()
    }
    figures["whole"] = psds1
    return {**figures, "clips": evaluation.report.as_json()}


def maestro_figures(scores: ScoreTables, settings: SystemSettings, name: str, draws: int = DRAWS) -> dict[str, Any]:
    """mpAUC and best segment F1 of the MAESTRO windows, put back together: value, per_class, interval; and clips."""
    events, durations = _reference(settings, name)
    classes = evaluated_classes(settings, True)
    auc = mean_partial_auc(scores, events, durations, classes=classes, draws=draws)
    best = segment_f1(scores, events, durations, classes=classes, draws=draws)
    figures: dict[str, Any] = {
        key: {"value": part.value, "per_class": part.per_class, "interval": part.interval}
        for key, part in (("mpauc", auc), ("segment_f1", best))
    }
    return {**figures, "whole": auc, "clips": {"scored": len(scores.clips), "comparable": True}}


def _all_figures(
    tables: dict[str, ScoreTables], settings: SystemSettings, missing: dict[str, int], draws: int
) -> dict[str, Any]:
    every: dict[str, Any] = {}
    for name, scores in tables.items():
        figures = maestro_figures if SETS[name].domain == "maestro" else desed_figures
        every[name] = figures(scores, settings, name, draws)
        clips, expected = every[name]["clips"], published_clips(settings.data.root, name)
        clips["expected"] = expected or clips["scored"] + missing[name]
        clips["comparable"] = clips["scored"] >= clips["expected"] and not missing[name]
    whole = {name: figures.pop("whole") for name, figures in every.items()}
    if "maestro_validation" in every:
        psds1, mpauc = every["validation"]["psds1"]["value"], every["maestro_validation"]["mpauc"]["value"]
        interval = rank_interval(whole["validation"], whole["maestro_validation"]) if draws else None
        every["validation"]["rank_score"] = {"value": rank_score(psds1, mpauc), "interval": interval}
    return every


def _score_set(module: SoundEventTraining, settings: Task4Settings, name: str, folder: Path, fast_check: bool) -> int:
    """Write a set's logits of both networks; gives how many of its clips are missing."""
    clips = read_set(settings.data.root, name, settings.data.allow_missing, settings.labels.classes)
    if clips.missing:
        say(missing_sentence(name, len(clips.missing), len(clips) + len(clips.missing), clips.missing))
    loader = make_loader(
        open_clips(clips, settings), settings.data.scoring_batch, num_workers=settings.data.num_workers
    )
    networks = ["student"] if module.teacher is None else ["student", "teacher"]
    stores = {network: folder / f"{name}_{network}.h5" for network in networks}
    write_logits(module, loader, stores, settings.labels.classes, limit=2 if fast_check else None)
    return len(clips.missing)


@torch.inference_mode()
def write_logits(
    module: MeanTeacherTraining, loader: Any, stores: dict[str, Path], classes: Sequence[str], limit: int | None = None
) -> None:
    """Logits of the frames of every clip, by every network of `stores`; no class is masked."""
    for network, path in stores.items():
        with ScoreWriter(path, classes, dtype="float32") as writer:
            for number, batch in enumerate(loader):
                if limit is not None and number >= limit:
                    break
                moved = {
                    key: value.to(module.device) for key, value in batch.items() if isinstance(value, torch.Tensor)
                }
                output = module.detect(moved, student=network == "student", masked=False)
                writer.write(batch["filename"], output.frame_logits, batch["duration"])


def _reference(settings: SystemSettings, name: str) -> tuple[Any, dict[str, float]]:
    path = label_file(settings.data.root, name)
    assert path is not None
    return read_events(path), set_durations(settings.data.root, name)


def _store(folder: Path, name: str, network: str) -> Path:
    return folder / "scores" / f"{name}_{network}.h5"

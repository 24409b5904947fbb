"""Scores of a run's trainings: of training clips, of the test sets, of an evaluation set; and their figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.data.loading import make_loader
from common.inference.complexity import measure
from common.models.network import choose_device
from common.runs.energy import measure_energy
from common.runs.stages import Run
from common.training.checkpoints import load_weights
from task4_sed.data.clips import SoundEventClips
from task4_sed.evaluate import test_sets, write_evaluation, write_logits
from task4_sed.iterations.data import open_clips, read_clips
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.labels import CLIP_SAMPLES
from task4_sed.scores.ensemble import ensemble_stores


def load_training(run: Run[TwoIterations], name: str, iteration: int, number: int) -> StageTraining:
    """Student and teacher of a finished training in evaluation mode, on the GPU if there is one."""
    module = StageTraining(run.settings, name, iteration, number, released=False)
    load_weights(module, find_checkpoint(run, f"iteration{iteration}_stage{number}_{name}"))
    return module.eval().to(choose_device(run.settings.trainer))


def find_checkpoint(run: Run[TwoIterations], stage: str) -> Path:
    """best.ckpt where clips were held out, else last.ckpt."""
    return run.checkpoint(f"{stage}/best.ckpt", f"{stage}/last.ckpt")


def write_scores(module: StageTraining, clips: SoundEventClips, path: Path, settings: TwoIterations) -> None:
    """Write the logits of clips, of all classes, by the network that the settings choose."""
    loader = make_loader(clips, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.postprocessing.network: path}, settings.labels.classes)


def test_system(run: Run[TwoIterations], settings: TwoIterations, fast_check: bool = False) -> None:
    """Score the test sets with every training and with the ensemble of each stage, raw and post-processed.

    Writes test/scores/<set>_<training>.h5 (raw logits), test/evaluation.json, with event boxes test/boxes.json, and the
    energy of the inference of the submitted system, test/energy.json.
    """
    folder = run.folder / "test"
    sets = {name: read_clips(settings, name, everything=True) for name in test_sets(settings)}
    opened = {name: open_clips(clips, settings) for name, clips in sets.items()}
    with measure_energy(folder, settings.trainer):
        _score_members(run, 2, 2, submitted_names(settings), opened, folder / "scores")
    for iteration in settings.iterations:
        for number in (1, 2):
            _score_members(run, iteration, number, settings.names, opened, folder / "scores")
    missing = {name: len(clips.missing) for name, clips in sets.items()}
    write_evaluation(folder, settings, system_names(settings), missing)


def system_names(settings: TwoIterations) -> list[str]:
    """Every training, and the ensemble of each stage, in their order."""
    stages = [f"iteration{iteration}_stage{number}" for iteration in settings.iterations for number in (1, 2)]
    members = [*settings.names, "ensemble"] if len(settings.names) > 1 else settings.names
    return [f"{stage}_{member}" for stage in stages for member in members]


def predict_logits(run: Run[TwoIterations], clips: SoundEventClips, path: Path) -> None:
    """Write the logits of clips by the submitted system: the ensemble of the last stage, or one of its members."""
    names = submitted_names(run.settings)
    stores = [path.with_name(f"{path.stem}_{name}.h5") for name in names]
    for name, store in zip(names, stores):
        write_scores(load_training(run, name, 2, 2), clips, store, run.settings)
    ensemble_stores(stores, path)


def complexity_figures(settings: TwoIterations) -> dict[str, Any]:
    """Parameters and MACs for 10 s, transformers included; the sum over an ensemble."""
    figures: dict[str, Any] = {"total_parameters": 0, "macs": 0}
    silence = torch.zeros(1, CLIP_SAMPLES)
    for name in submitted_names(settings):
        module = StageTraining(settings, name, 2, 2, released=False)
        reads = {"log_mel": tuple(module.transformer_front_end(silence).shape[1:])}
        counted = measure(module.student, module.front_end(silence).shape, also_reads=reads)
        figures["total_parameters"] += counted.parameters
        figures["macs"] += counted.all_calls["total"]
    return figures


def submitted_names(settings: TwoIterations) -> list[str]:
    """Transformers of the submitted system."""
    system = settings.network.removeprefix("iteration2_stage2_")
    return settings.names if system == "ensemble" else [system]


def _score_members(
    run: Run[TwoIterations], iteration: int, number: int, names: Sequence[str],
    opened: Mapping[str, SoundEventClips], folder: Path,
) -> None:  # fmt: skip
    """Write missing stores of the test sets, by some trainings of a stage and, if these are all, their ensemble."""
    stage = f"iteration{iteration}_stage{number}"
    for name in names:
        wanted = {test: folder / f"{test}_{stage}_{name}.h5" for test in opened}
        missing = {test: path for test, path in wanted.items() if not path.is_file()}
        if missing:
            module = load_training(run, name, iteration, number)
            for test, path in missing.items():
                write_scores(module, opened[test], path, run.settings)
    if len(names) == len(run.settings.names) > 1:
        for test in opened:
            path = folder / f"{test}_{stage}_ensemble.h5"
            if not path.is_file():
                ensemble_stores([folder / f"{test}_{stage}_{name}.h5" for name in names], path)

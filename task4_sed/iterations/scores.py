"""Scores of a run's trainings: of clips to learn from, of the test sets, of an evaluation set; and their figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.data.loading import make_loader
from common.errors import UserError
from common.inference.complexity import measure
from common.runs.energy import EnergyMeter
from common.runs.stages import Run
from common.training.checkpoints import weights_of
from task4_sed.data.clips import SoundEventClips
from task4_sed.evaluate import test_sets, write_evaluation, write_logits
from task4_sed.iterations.data import open_clips, read_clips
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.labels import CLIP_SAMPLES
from task4_sed.scores.ensemble import ensemble_stores


def load_training(run: Run, name: str, iteration: int, number: int) -> StageTraining:
    """Student and teacher of a finished training in evaluation mode, on the GPU where there is one.

    Raises:
        UserError: if it is not trained yet, or its weights are those of another network.
    """
    settings = run.settings
    folder = run.folder / f"iteration{iteration}_stage{number}_{name}"
    path = folder / checkpoint_name(folder)
    module = StageTraining(settings, name, iteration, number, released=False)
    try:
        module.load_state_dict(weights_of(path))
    except RuntimeError as error:
        raise UserError(f"The weights in {path} are those of another network: {str(error).splitlines()[-1]}") from error
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return module.eval().to("cuda" if use_gpu else "cpu")


def checkpoint_name(folder: Path) -> str:
    """best.ckpt where clips were held out, else last.ckpt.

    Raises:
        UserError: if there is neither.
    """
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return name
    raise UserError(f"{folder} is not trained yet; finish the run with --resume {folder.parent}.")


def write_scores(module: StageTraining, clips: SoundEventClips, path: Path, settings: TwoIterations) -> None:
    """Logits of clips, of all classes, by the network that the settings choose."""
    loader = make_loader(clips, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.postprocessing.network: path}, settings.labels.classes)


def test_system(run: Run, settings: TwoIterations, fast_check: bool = False) -> None:
    """Score the test sets with every training and with the ensemble of each stage, raw and post-processed.

    Writes test/scores/<set>_<training>.h5 (raw logits), test/evaluation.json, with event boxes test/boxes.json, and the
    energy of the inference of what is handed in, test/energy.json.
    """
    folder = run.folder / "test"
    sets = {name: read_clips(settings, name, everything=True) for name in test_sets(settings)}
    opened = {name: open_clips(clips, settings) for name, clips in sets.items()}
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        _score_members(run, settings, 2, 2, handed_in(settings), opened, folder / "scores")
    for iteration in settings.iterations:
        for number in (1, 2):
            _score_members(run, settings, iteration, number, settings.names, opened, folder / "scores")
    missing = {name: len(clips.missing) for name, clips in sets.items()}
    write_evaluation(folder, settings, system_names(settings), missing)


def system_names(settings: TwoIterations) -> list[str]:
    """Every training, and the ensemble of each stage, in the order in which they are made."""
    stages = [f"iteration{iteration}_stage{number}" for iteration in settings.iterations for number in (1, 2)]
    members = [*settings.names, "ensemble"] if len(settings.names) > 1 else settings.names
    return [f"{stage}_{member}" for stage in stages for member in members]


def predict_logits(run: Run, clips: SoundEventClips, path: Path) -> None:
    """Logits of clips by what is handed in: the ensemble of the last stage, or one of its members."""
    settings = run.settings
    members = handed_in(settings)
    stores = [path.with_name(f"{path.stem}_{name}.h5") for name in members]
    for name, store in zip(members, stores):
        write_scores(load_training(run, name, 2, 2), clips, store, settings)
    ensemble_stores(stores, path)


def complexity_figures(settings: TwoIterations) -> dict[str, Any]:
    """Parameters and MACs for 10 s of what is handed in, the transformers counted; of an ensemble the sum."""
    figures: dict[str, Any] = {"total_parameters": 0, "macs": 0}
    silence = torch.zeros(1, CLIP_SAMPLES)
    for name in handed_in(settings):
        module = StageTraining(settings, name, 2, 2, released=False)
        reads = {"log_mel": tuple(module.transformer_front_end(silence).shape[1:])}
        counted = measure(module.student, module.front_end(silence).shape, also_reads=reads)
        figures["total_parameters"] += counted.parameters
        figures["macs"] += counted.all_calls["total"]
    return figures


def handed_in(settings: TwoIterations) -> list[str]:
    """Transformers whose last stage is handed in."""
    system = settings.network.removeprefix("iteration2_stage2_")
    return settings.names if system == "ensemble" else [system]


def _score_members(
    run: Run, settings: TwoIterations, iteration: int, number: int, names: Sequence[str],
    opened: dict[str, SoundEventClips], folder: Path,
) -> None:  # fmt: skip
    """Stores of all test sets of some trainings and, where they are all, of their ensemble; what is there is kept."""
    stage = f"iteration{iteration}_stage{number}"
    for name in names:
        wanted = {test: folder / f"{test}_{stage}_{name}.h5" for test in opened}
        missing = {test: path for test, path in wanted.items() if not path.is_file()}
        if missing:
            module = load_training(run, name, iteration, number)
            for test, path in missing.items():
                write_scores(module, opened[test], path, settings)
    if len(names) == len(settings.names) > 1:
        for test in opened:
            path = folder / f"{test}_{stage}_ensemble.h5"
            if not path.is_file():
                ensemble_stores([folder / f"{test}_{stage}_{name}.h5" for name in names], path)

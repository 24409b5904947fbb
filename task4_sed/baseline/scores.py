"""Scores of the baseline's networks: of the test sets and of an evaluation set."""

from pathlib import Path

import torch

from common.data.loading import make_loader
from common.errors import UserError
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.stages import Run
from common.training.checkpoints import weights_of
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import SoundEventTraining
from task4_sed.data.clips import SoundEventClips, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.sets import (
    missing_sentence,
    read_set,
)
from task4_sed.evaluate import test_sets, write_evaluation, write_logits


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


def _predict(run: Run, dataset: SoundEventClips, store: Path) -> None:
    """Logits of clips by the network that is handed in."""
    settings, module = run.settings, load_module(run)
    if settings.embeddings == "cached":
        module.use_frozen(load_frozen(settings.embedding))
    loader = make_loader(dataset, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.network: store}, settings.labels.classes)


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

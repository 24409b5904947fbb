"""Scores of the baseline's networks: of the test sets and of an evaluation set."""

from pathlib import Path
from typing import Any

import torch

from common.data.loading import make_loader
from common.features.front_ends import DesedMel
from common.inference.complexity import measure
from common.models.network import choose_device
from common.runs.energy import measure_energy
from common.runs.stages import Run
from common.training.checkpoints import load_weights
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import SoundEventTraining, make_network
from task4_sed.data.clips import SoundEventClips, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.sets import read_clips
from task4_sed.evaluate import test_sets, write_evaluation, write_logits
from task4_sed.labels import CLIP_SAMPLES


def score_network(run: Run[Task4Settings], settings: Task4Settings, fast_check: bool = False) -> None:
    """Score the test sets with student and teacher, raw and post-processed.

    Reads train/{best,last}.ckpt. Writes test/scores/<set>_<network>.h5 (raw logits), test/evaluation.json, with event
    boxes test/boxes.json, and the energy of the inference in test/energy.json.
    """
    module = load_module(run)
    folder = run.folder / "test"
    with measure_energy(folder, settings.trainer):
        missing = {name: _score_set(module, settings, name, folder, fast_check) for name in test_sets(settings)}
    write_evaluation(folder, settings, _networks(settings), missing)


def load_module(run: Run[Task4Settings], embed: bool = False) -> SoundEventTraining:
    """Student and teacher of a run in evaluation mode, on the GPU if there is one; `embed`: computes all embeddings."""
    settings, choice = run.settings, run.settings.validation
    path = run.checkpoint(f"train/{'best' if choice.weak or choice.synthetic or choice.maestro else 'last'}.ckpt")
    live = settings.embeddings == "live" or (embed and settings.embeddings == "cached")
    frozen = load_frozen(settings.embedding) if live else None
    module = SoundEventTraining(settings, frozen)
    load_weights(module, path)
    return module.eval().to(choose_device(settings.trainer))


def predict_logits(run: Run[Task4Settings], dataset: SoundEventClips, store: Path) -> None:
    """Write logits of clips by the submitted network."""
    settings, module = run.settings, load_module(run, embed=True)
    loader = make_loader(dataset, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.network: store}, settings.labels.classes)


def _networks(settings: Task4Settings) -> list[str]:
    return ["student"] if settings.teacher is None else ["student", "teacher"]


def complexity_figures(settings: Task4Settings) -> dict[str, Any]:
    """Parameters and MACs for 10 s; a frozen model before the network is named, not counted."""
    shape = DesedMel(n_mels=settings.front_end.n_mels)(torch.zeros(1, CLIP_SAMPLES)).shape
    reads = {} if settings.embeddings == "none" else {"embeddings": (settings.embedding.dim, 496)}
    counted = measure(make_network(settings), shape, also_reads=reads)
    figures: dict[str, Any] = {"total_parameters": counted.parameters, "macs": counted.all_calls["total"]}
    if reads:
        figures["embeddings"] = f"of {settings.embedding.model}, frozen, not counted"
    return figures


def _score_set(module: SoundEventTraining, settings: Task4Settings, name: str, folder: Path, fast_check: bool) -> int:
    """Write the logits of both networks for a set; returns how many of its clips are missing."""
    clips = read_clips(settings, name)
    opened = open_clips(clips, settings, settings.cached_embedding)
    loader = make_loader(opened, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    stores = {network: folder / "scores" / f"{name}_{network}.h5" for network in _networks(settings)}
    write_logits(module, loader, stores, settings.labels.classes, limit=2 if fast_check else None)
    return len(clips.missing)

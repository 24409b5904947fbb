"""The recipe of Task 4: embeddings where they are wanted, training, tests on both data sets."""

from pathlib import Path
from typing import Any

import torch

from common.data.loading import make_loader
from common.features.front_ends import DesedMel
from common.inference.complexity import measure
from common.models.network import choose_device, uses_gpu
from common.output import say
from common.runs.energy import measure_energy
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.checkpoints import load_weights
from common.training.seeds import seed_all
from task4_sed.baseline.network import SoundEventDetector, make_network
from task4_sed.baseline.settings import Task4Settings
from task4_sed.data.clips import SoundEventClips, make_training_loader, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.sets import WINDOWS, ClipSet, hold_out, read_clips
from task4_sed.evaluate import test_sets, write_evaluation
from task4_sed.labels import CLIP_SAMPLES
from task4_sed.mean_teacher.detector import write_logits
from task4_sed.scores.windows import join_windows
from task4_sed.scoring import make_reference
from task4_sed.settings import TRAINER


def train_network(run: Run[Task4Settings], settings: Task4Settings, fast_check: bool = False) -> None:
    """Train student and teacher.

    Writes train/last.ckpt, best.ckpt, metrics.csv and energy.json.
    """
    data, folder = settings.data, run.folder / "train"
    training, held_out = read_training_sets(settings)
    from common.training.trainer import fit, make_trainer  # Lightning is imported when nothing is missing
    from task4_sed.baseline.train import SoundEventTraining

    opened = {name: open_clips(clips, settings, settings.cached_embedding) for name, clips in training.items()}
    groups = [[opened[name] for name in group.sets] for group in data.batch]
    counts, use_gpu = [group.clips for group in data.batch], uses_gpu(settings.trainer)
    loader = make_training_loader(groups, counts, settings.seed, data.num_workers, use_gpu)
    scored = [open_clips(clips, settings, settings.cached_embedding) for clips in held_out.values()]
    validation = [
        make_loader(clips, data.scoring_batch, num_workers=data.num_workers, pin_memory=use_gpu) for clips in scored
    ]
    references = [make_reference(clips, settings) for clips in held_out.values()]
    shown = ", ".join(f"{len(clips)} {name}" for name, clips in training.items())
    say(f"train: {shown}; {len(loader)} steps per epoch")
    seed_all(settings.seed)
    frozen = load_frozen(settings.embedding) if settings.embeddings == "live" else None
    module = SoundEventTraining(settings, frozen, references)
    monitor = "val_objective" if validation else None
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    with measure_energy(folder, settings.trainer):
        fit(trainer, module, loader, validation or None)


def read_training_sets(settings: Task4Settings) -> tuple[dict[str, ClipSet], dict[str, ClipSet]]:
    """Training and validation sets by name; reports missing clips."""
    names = dict.fromkeys(name for group in settings.data.batch for name in group.sets)
    every: dict[str, ClipSet] = {name: read_clips(settings, name) for name in names}
    training, held_out = hold_out(every, settings.validation, settings.data.root)
    if settings.own_data:
        return training, {"own_validation": read_clips(settings, "own_validation")} if settings.validation.any else {}
    if settings.validation.synthetic:
        held_out = {"synthetic_validation": read_clips(settings, "synthetic_validation"), **held_out}
    return training, held_out


def prepare_stores(settings: Task4Settings) -> None:
    """Make the packed stores and cached embeddings of all sets."""
    training, held_out = read_training_sets(settings)
    tested = (read_clips(settings, WINDOWS.get(name, name)) for name in test_sets(settings))
    for clips in (*training.values(), *held_out.values(), *tested):
        open_clips(clips, settings, settings.cached_embedding)


def score_network(run: Run[Task4Settings], settings: Task4Settings, fast_check: bool = False) -> None:
    """Score the test sets with student and teacher, raw and post-processed.

    Reads train/{best,last}.ckpt. Writes test/scores/<set>_<network>.h5 (raw logits), test/evaluation.json, with event
    boxes test/boxes.json, and the energy of the inference in test/energy.json.
    """
    module = load_module(run)
    folder, data, missing = run.folder / "test", settings.data, {}
    networks = ["student"] if settings.teacher is None else ["student", "teacher"]
    with measure_energy(folder, settings.trainer):
        for name in test_sets(settings):
            clips = read_clips(settings, WINDOWS.get(name, name))
            opened = open_clips(clips, settings, settings.cached_embedding)
            loader = make_loader(opened, data.scoring_batch, num_workers=data.num_workers)
            stores = {network: folder / "scores" / f"{name}_{network}.h5" for network in networks}
            write_logits(module, loader, stores, settings.labels.classes, limit=2 if fast_check else None)
            if name in WINDOWS:
                for store in stores.values():
                    join_windows(store)
            missing[name] = len(clips.missing)
    write_evaluation(folder, settings, networks, missing)


def load_module(run: Run[Task4Settings], embed: bool = False) -> SoundEventDetector:
    """Student and teacher of a run in evaluation mode, on the GPU if there is one; `embed`: computes all embeddings."""
    settings = run.settings
    best = ["train/best.ckpt"] if settings.validation.any else []  # absent where no epoch was validated
    path = run.checkpoint(*best, "train/last.ckpt")
    live = settings.embeddings == "live" or (embed and settings.embeddings == "cached")
    frozen = load_frozen(settings.embedding) if live else None
    module = SoundEventDetector(settings, frozen)
    load_weights(module, path)
    return module.eval().to(choose_device(settings.trainer))


def predict_logits(run: Run[Task4Settings], dataset: SoundEventClips, store: Path) -> None:
    """Write logits of clips by the submitted network."""
    settings, module = run.settings, load_module(run, embed=True)
    loader = make_loader(dataset, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.network: store}, settings.labels.classes)


def complexity_figures(settings: Task4Settings) -> dict[str, Any]:
    """Parameters and MACs for 10 s; a frozen model before the network is named, not counted."""
    shape = DesedMel(n_mels=settings.front_end.n_mels)(torch.zeros(1, CLIP_SAMPLES)).shape
    reads = {} if settings.embeddings == "none" else {"embeddings": (settings.embedding.dim, 496)}
    counted = measure(make_network(settings), shape, also_reads=reads)
    figures: dict[str, Any] = {"total_parameters": counted.parameters, "macs": counted.all_calls["total"]}
    if reads:
        figures["embeddings"] = f"of {settings.embedding.model}, frozen, not counted"
    return figures


def make_stages(settings: Task4Settings) -> list[Stage]:
    """The same for all settings."""
    return STAGES


TRAINING = ("seed", "data.root", "data.batch", "data.allow_missing", "labels", "embeddings", "embedding", "front_end",
            "model", "mixup", "loss", "teacher", "optim", "validation", "postprocessing.median_frames")  # fmt: skip

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "postprocessing"), alone=True),
]

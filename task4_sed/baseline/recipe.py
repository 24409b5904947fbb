"""The recipe of Task 4: embeddings where they are wanted, training, tests on both data sets."""

import numpy as np
import torch

from common.data.loading import make_loader
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.stages import Run, Stage
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from task4_sed.baseline.scores import score_network
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import SoundEventTraining
from task4_sed.data.clips import make_training_loader, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.maestro import split_training_windows
from task4_sed.data.sets import ClipSet, missing_sentence, read_set, split_weak
from task4_sed.mean_teacher import reference_of


def train_network(run: Run, settings: Task4Settings, fast_check: bool = False) -> None:
    """Train student and teacher.

    Writes train/last.ckpt, best.ckpt, metrics.csv and energy.json.
    """
    data, folder = settings.data, run.folder / "train"
    training, held_out = read_training_sets(settings)
    opened = {name: open_clips(clips, settings) for name, clips in training.items()}
    groups = [[opened[name] for name in group.sets] for group in data.batch]
    counts = [group.clips for group in data.batch]
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    loader = make_training_loader(groups, counts, settings.seed, data.num_workers, use_gpu)
    validation = [
        make_loader(open_clips(clips, settings), data.scoring_batch, num_workers=data.num_workers)
        for clips in held_out.values()
    ]
    references = [reference_of(clips, settings) for clips in held_out.values()]
    say(f"train: {', '.join(f'{len(clips)} {name}' for name, clips in training.items())}; {len(loader)} steps an epoch")
    seed_all(settings.seed)
    frozen = load_frozen(settings.embedding) if settings.embeddings == "live" else None
    module = SoundEventTraining(settings, frozen, references)
    monitor = "val_objective" if validation else None
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, loader, validation or None)


def read_training_sets(settings: Task4Settings) -> tuple[dict[str, ClipSet], dict[str, ClipSet]]:
    """Sets to train on and sets to validate on, by name; says what is missing of them."""
    data, choice = settings.data, settings.validation
    names = list(dict.fromkeys(name for group in data.batch for name in group.sets))
    training = {name: _read(settings, name) for name in names}
    held_out: dict[str, ClipSet] = {}
    if choice.synthetic:
        held_out["synthetic_validation"] = _read(settings, "synthetic_validation")
    if choice.weak and "weak" in training:
        training["weak"], held_out["weak"] = split_weak(training["weak"], data.root)
    if choice.maestro and "maestro_train" in training:
        windows = training["maestro_train"]
        chosen = split_training_windows(windows.filenames)
        training["maestro_train"] = windows.select(np.flatnonzero(chosen))
        held_out["maestro_train"] = windows.select(np.flatnonzero(~chosen))
    return training, held_out


def _read(settings: Task4Settings, name: str) -> ClipSet:
    clips = read_set(settings.data.root, name, settings.data.allow_missing, settings.labels.classes)
    if clips.missing:
        say(missing_sentence(name, len(clips.missing), len(clips) + len(clips.missing), clips.missing))
    return clips


TRAINING = ("seed", "data.root", "data.batch", "data.allow_missing", "labels", "embeddings", "embedding", "front_end",
            "model", "mixup", "loss", "teacher", "optim", "validation", "postprocessing.median_frames")  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "postprocessing"), alone=True),
]

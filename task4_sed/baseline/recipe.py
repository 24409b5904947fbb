"""The recipe of Task 4: embeddings where they are wanted, training, tests on both data sets."""

from common.data.loading import make_loader
from common.models.network import uses_gpu
from common.output import say
from common.runs.energy import measure_energy
from common.runs.stages import Run, Stage
from common.training.trainer import fit, make_trainer, seed_all
from task4_sed.baseline.scores import score_network
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import SoundEventTraining
from task4_sed.data.clips import make_training_loader, open_clips
from task4_sed.data.embeddings import load_frozen
from task4_sed.data.sets import ClipSet, hold_out, read_clips
from task4_sed.evaluate import test_sets
from task4_sed.scoring import make_reference


def train_network(run: Run[Task4Settings], settings: Task4Settings, fast_check: bool = False) -> None:
    """Train student and teacher.

    Writes train/last.ckpt, best.ckpt, metrics.csv and energy.json.
    """
    data, folder = settings.data, run.folder / "train"
    training, held_out = read_training_sets(settings)
    opened = {name: open_clips(clips, settings, settings.cached_embedding) for name, clips in training.items()}
    groups = [[opened[name] for name in group.sets] for group in data.batch]
    counts = [group.clips for group in data.batch]
    loader = make_training_loader(groups, counts, settings.seed, data.num_workers, uses_gpu(settings.trainer))
    validation = [
        make_loader(
            open_clips(clips, settings, settings.cached_embedding), data.scoring_batch, num_workers=data.num_workers
        )
        for clips in held_out.values()
    ]
    references = [make_reference(clips, settings) for clips in held_out.values()]
    say(
        f"train: {', '.join(f'{len(clips)} {name}' for name, clips in training.items())}; {len(loader)} steps per epoch"
    )
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
    training, held_out = hold_out(
        {name: read_clips(settings, name) for name in names}, settings.validation, settings.data.root
    )
    if settings.validation.synthetic:
        held_out = {"synthetic_validation": read_clips(settings, "synthetic_validation"), **held_out}
    return training, held_out


def prepare_stores(settings: Task4Settings) -> None:
    """Make the packed stores and cached embeddings of all sets."""
    training, held_out = read_training_sets(settings)
    tested = (read_clips(settings, name) for name in test_sets(settings))
    for clips in (*training.values(), *held_out.values(), *tested):
        open_clips(clips, settings, settings.cached_embedding)


def make_stages(settings: Task4Settings) -> list[Stage]:
    """The same for all settings."""
    return STAGES


TRAINING = ("seed", "data.root", "data.batch", "data.allow_missing", "labels", "embeddings", "embedding", "front_end",
            "model", "mixup", "loss", "teacher", "optim", "validation", "postprocessing.median_frames")  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "postprocessing"), alone=True),
]

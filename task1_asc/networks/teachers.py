"""The teachers of a run: their names, seeds and settings, and the trained ones."""

from collections.abc import Iterator
from pathlib import Path

from common.models.audio_model import AudioModel
from common.training.checkpoints import load_weights
from common.training.seeds import derive_seed
from task1_asc.networks.build import make_teacher
from task1_asc.networks.trained import device_of
from task1_asc.settings import Task1Settings, TeacherSettings


def each_teacher(settings: Task1Settings) -> Iterator[tuple[str, int, TeacherSettings]]:
    """Name of the folder, number within the run, and settings of every teacher."""
    number = 0
    for teacher in settings.distillation.teachers if settings.distillation is not None else []:
        for copy in range(1, teacher.count + 1):
            number += 1
            yield f"{teacher.name}_{copy}", number, teacher


def teacher_settings(settings: Task1Settings, teacher: TeacherSettings, number: int) -> Task1Settings:
    """The settings of a teacher's training: those of the run, but for what the teacher has of its own."""
    trainer = {"epochs": teacher.epochs, "precision": teacher.precision}
    return settings.model_copy(
        update={
            "seed": derive_seed(settings.seed, 1000 + number) % 2**31,
            "augment": teacher.augment,
            "optim": teacher.optim,
            "loader": settings.loader.model_copy(update={"batch_size": teacher.batch_size}),
            "trainer": settings.trainer.model_copy(update=trainer),
            "distillation": None,
        }
    )


def load_teacher(folder: Path, settings: Task1Settings, teacher: TeacherSettings, sample_rate: int) -> AudioModel:
    """A trained teacher in evaluation mode, on the GPU where there is one.

    Args:
        folder: of its checkpoints.
        settings: of its training.
        teacher: its own settings.
        sample_rate: Hz of the waveforms that it is given.
    """
    untrained = teacher.model_copy(update={"weights": None})
    model = make_teacher(untrained, sample_rate, settings.subset)
    best = folder / "best.ckpt"
    prefix = "network." if settings.optim.average_decay is None else "average."
    load_weights(model.network, best if best.is_file() else folder / "last.ckpt", prefix)
    return model.eval().to(device_of(settings))

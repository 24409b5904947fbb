"""The teachers of a run: names, seeds and settings, new networks, and trained ones."""

from collections.abc import Iterator

from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.network import choose_device
from common.registry.models import create_audio_model, find_released
from common.registry.weights import load_audio_model
from common.runs.run import Run
from common.training.checkpoints import load_weights
from common.training.seeds import derive_seed
from task1_asc.data.tau2022 import CLASSES
from task1_asc.networks.build import make_front_end, tested_prefix
from task1_asc.settings import Task1Settings, TeacherSettings

TASK_LABELS = "tau_scenes"


def each_teacher(settings: Task1Settings) -> Iterator[tuple[str, int, TeacherSettings]]:
    """Name of the folder, number within the run, and settings of every teacher."""
    number = 0
    for teacher in settings.distillation.teachers if settings.distillation is not None else []:
        for copy in range(1, teacher.count + 1):
            number += 1
            yield f"{teacher.name}_{copy}", number, teacher


def teacher_settings(settings: Task1Settings, teacher: TeacherSettings, number: int) -> Task1Settings:
    """The settings of a teacher's training: the run's, with the teacher's own values."""
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


def make_teacher(teacher: TeacherSettings, sample_rate: int, subset: int) -> AudioModel:
    """A teacher with its initial weights.

    Raises:
        UserError: if its weights were trained on clips outside the subset, or do not fit the options.
    """
    refuse_leaking_weights(teacher, subset)
    model = create_audio_model(teacher.model, labels=CLASSES, **teacher.options)
    model.front_end = make_front_end(teacher.model, sample_rate, **teacher.front_end)
    if teacher.weights is not None:
        donor = load_audio_model(teacher.weights, teacher.weights_file, labels=CLASSES)
        try:
            model.network.load_state_dict(donor.network.state_dict())
        except RuntimeError as error:
            raise UserError(
                f"The weights {teacher.weights} of the teacher {teacher.name} do not fit {teacher.model} with its "
                f"options {teacher.options}; leave out options that change its size."
            ) from error
    return model


def refuse_leaking_weights(teacher: TeacherSettings, subset: int) -> None:
    """Refuse weights that were trained on the scenes of the whole development set.

    Raises:
        UserError: for a subset below 100 %.
    """
    released = find_released(teacher.weights) if teacher.weights else None
    if released is not None and released.architecture.labels == TASK_LABELS and subset < 100:
        raise UserError(
            f"The teacher {teacher.name} starts from {teacher.weights}, weights of the whole development-train split; "
            f"with subset {subset} that is a leak. Start from weights of another data set, such as passt_s_swa.as, or "
            "from none."
        )


def load_teacher(
    run: Run[Task1Settings], name: str, settings: Task1Settings, teacher: TeacherSettings, sample_rate: int
) -> AudioModel:
    """A trained teacher in evaluation mode.

    Args:
        run: has its checkpoints in teachers/<name>.
        name: of its folder.
        settings: of its training.
        teacher: its own settings.
        sample_rate: Hz of the waveforms that it takes.
    """
    model = make_teacher(teacher.model_copy(update={"weights": None}), sample_rate, settings.subset)
    path = run.checkpoint(f"teachers/{name}/best.ckpt", f"teachers/{name}/last.ckpt")
    load_weights(model.network, path, tested_prefix(settings))
    return model.eval().to(choose_device(settings.trainer))

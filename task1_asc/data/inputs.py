"""What a Task 1 run reads, looked for before anything is computed. No torch here."""

from common.errors import UserError
from common.runs.run import RECORD
from task1_asc.data.tau2022 import read_split, read_training_list
from task1_asc.settings import Task1Settings


def check_inputs(settings: Task1Settings) -> None:
    """Look for the lists and folders of a run, unless it is finished.

    Raises:
        UserError: for the first that is missing or wrong.
    """
    if (settings.folder / "test" / RECORD).is_file():
        return
    data, taught = settings.data, settings.distillation
    read_split(data.root, settings.subset)
    if data.training_list is not None:
        read_training_list(data.root, data.training_list, settings.subset)
    augments = [settings.augment, *(teacher.augment for teacher in (taught.teachers if taught else ()))]
    for responses in (augment.impulse_responses for augment in augments):
        if responses is not None and not responses.folder.is_dir():
            raise UserError(f"augment.impulse_responses.folder: there is no folder {responses.folder}.")
    if taught is not None and taught.logits is not None and not taught.logits.is_file():
        raise UserError(f"distillation.logits: there is no file {taught.logits}.")

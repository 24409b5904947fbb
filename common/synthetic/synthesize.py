"""Small made-up data sets in the official layout of each task, for trying the kit without a download.

Each task has a function `write_TASK(root, clips, seed)` that writes below `root` and returns counts of what it wrote.
"""

from importlib import import_module
from pathlib import Path

from common.errors import UserError, unknown

WRITERS = {
    "task1_asc": "common.synthetic.task1:write_task1",
    "task4_sed": "common.synthetic.task4:write_task4",
    "retrieval": "common.synthetic.retrieval:write_retrieval",
    "imitation": "common.synthetic.imitation:write_imitation",
    "audioset": "common.synthetic.audioset:write_audioset",
    "audioset_strong": "common.synthetic.audioset_strong:write_audioset_strong",
    "dcase2016_task2": "common.synthetic.dcase2016:write_dcase2016",
}


def synthesize(task: str, root: Path, clips: int | None = None, seed: int = 0) -> dict[str, int]:
    """Write the made-up data set of a task.

    Args:
        task: a key of `WRITERS`.
        root: folder that will hold the data set's folders.
        clips: about how many clips; None takes the task's default.
        seed: the same seed gives the same files, bit for bit.

    Returns:
        What was written: names and counts.

    Raises:
        UserError: if the task does not exist, or a folder holds something else already.
    """
    if task not in WRITERS:
        raise unknown("task with made-up data", task, WRITERS)
    if clips is not None and clips < 1:
        raise UserError(f"A data set of {clips} clips cannot be made; give a positive number to --clips.")
    module, function = WRITERS[task].split(":")
    return getattr(import_module(module), function)(Path(root), clips, seed)

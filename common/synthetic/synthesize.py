"""Small made-up data sets in the official layout of each task, for trying the kit without a download.

Each task has a function `write_TASK(root, clips, seed)` that writes below `root` and returns counts of what it wrote.
"""

import json
from importlib import import_module
from pathlib import Path

from common.errors import UserError, unknown
from common.files import write_json

WRITERS = {
    "task1_asc": "common.synthetic.task1:write_task1",
    "task4_sed": "common.synthetic.task4:write_task4",
    "retrieval": "common.synthetic.retrieval:write_retrieval",
    "imitation": "common.synthetic.imitation:write_imitation",
    "audioset": "common.synthetic.audioset:write_audioset",
    "audioset_strong": "common.synthetic.audioset_strong:write_audioset_strong",
    "dcase2016_task2": "common.synthetic.dcase2016:write_dcase2016",
}
MARKER = "made_up.json"


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


def claim_folder(folder: Path, made_from: dict) -> bool:
    """Mark a folder as made up before anything is written into it.

    Args:
        folder: of a data set; made when absent.
        made_from: what decides the content, such as task, clips and seed.

    Returns:
        True if the same content is there already and whole.

    Raises:
        UserError: if the folder holds files without the marker, which may be a real data set, or other made-up data.
    """
    marker = folder / MARKER
    if marker.is_file():
        content = read_marker(folder)
        if content.get("made_from") != made_from:
            raise UserError(
                f"{folder} holds made-up data of {content.get('made_from')}, asked is {made_from}; "
                "give another --root or delete that folder."
            )
        return bool(content.get("whole"))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{folder} holds files that were not made up (no {MARKER}), perhaps the real data set; "
                "give another --root."
            )
        write_json(marker, {"made_up": True, "whole": False, "made_from": made_from})
    except OSError as error:
        raise UserError(f"Cannot write into {folder}: {error.strerror}.") from error
    return False


def finish_folder(folder: Path, made_from: dict, numbers: dict) -> None:
    """Mark a claimed folder as whole, with the numbers that a check compares."""
    write_json(folder / MARKER, {"made_up": True, "whole": True, "made_from": made_from, "numbers": numbers})


def is_made_up(folder: Path) -> bool:
    """Whether a data set's folder holds made-up data; reports say so in their headings."""
    return (Path(folder) / MARKER).is_file()


def read_marker(folder: Path) -> dict:
    """The content of the marker file.

    Raises:
        UserError: if it is damaged.
    """
    path = Path(folder) / MARKER
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder and synthesize again.") from error

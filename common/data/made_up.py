"""The marker file of made-up data sets."""

import json
from pathlib import Path

from common.data.files import write_json
from common.errors import UserError

MARKER = "made_up.json"


def claim_folder(folder: Path, made_from: dict) -> bool:
    """Mark a folder as made-up data, before anything else is written into it.

    `made_from` holds the arguments that determine the content, such as task, clips and seed.

    Returns:
        True if the same content is there already, complete.

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
    """Mark a claimed folder as complete, with counts for `data check`."""
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

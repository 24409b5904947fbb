"""Mean logits of the teachers for the student's clips, by file name, and the clips that the teachers have seen.

    logits.h5      one row per clip, see common/data/keyed_outputs.py
    origin.json    subset, digest of its list of clips, digests of the teachers and of logits.h5; written last
    seen.tsv       all clips that any of the teachers was trained on

A student takes them only for the subset they were made for, and only if no teacher saw a clip outside it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.files import compute_sha256, read_json, read_tsv, write_json, write_text
from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.errors import UserError
from task1_asc.data.tau2022 import CLASSES, read_split

LOGITS, ORIGIN, SEEN = "logits.h5", "origin.json", "seen.tsv"


def list_digest(filenames: Iterable[str]) -> str:
    """SHA-256 of a set of clips, whatever their order."""
    return hashlib.sha256("\n".join(sorted(filenames)).encode()).hexdigest()


def write_seen(folder: Path, filenames: Iterable[str]) -> None:
    """Write the list of clips that a teacher was trained on or selected by."""
    write_text(folder / SEEN, "\n".join(["filename", *sorted(filenames), ""]))


def read_seen(folder: Path) -> list[str]:
    """The clips that a teacher has seen.

    Raises:
        UserError: if there is no list of them.
    """
    if not (folder / SEEN).is_file():
        raise UserError(f"{folder} has no {SEEN}, which lists the clips that this teacher has seen; train it again.")
    return read_tsv(folder / SEEN, ["filename"], key="filename")["filename"].tolist()


def refuse_outside(seen: Sequence[str], root: Path, subset: int, who: str) -> None:
    """Refuse clips that are not in the subset.

    Raises:
        UserError: with how many, the first, and which subset has them.
    """
    allowed = set(read_split(root, subset)["filename"])
    outside = sorted(set(seen) - allowed)
    if not outside:
        return
    raise UserError(
        f"{who} has seen {len(outside)} of {len(seen)} clips outside the subset {subset} (first {outside[0]}): a leak. "
        f"Train teachers on the subset itself."
    )


def write_logits(
    folder: Path,
    subset: int,
    root: Path,
    filenames: Sequence[str],
    logits: NDArray,
    teachers: dict[str, Path],
    dtype: str,
) -> None:
    """Write the mean logits of teachers.

    Args:
        folder: to write into.
        subset: that the student is trained on.
        root: of the data.
        filenames: clips, in the order of `logits`.
        logits: (clips, classes).
        teachers: name of each teacher and its folder, with checkpoint and seen.tsv.
        dtype: float16 or float32.

    Raises:
        UserError: if a teacher saw a clip outside the subset, or a logit is NaN.
    """
    seen: set[str] = set()
    for name, teacher in teachers.items():
        own = read_seen(teacher)
        refuse_outside(own, root, subset, f"The teacher {name}")
        seen |= set(own)
    with OutputWriter(folder / LOGITS, filenames, (len(CLASSES),), dtype=dtype) as file:
        file.write(filenames, logits)
    write_seen(folder, seen)
    origin = {
        "subset": subset,
        "subset_sha256": list_digest(read_split(root, subset)["filename"]),
        "clips": len(filenames),
        "classes": CLASSES,
        "teachers": {name: hash_weights(teacher) for name, teacher in teachers.items()},
        "seen_sha256": compute_sha256(folder / SEEN),
        "logits_sha256": compute_sha256(folder / LOGITS),
    }
    write_json(folder / ORIGIN, origin)


def hash_weights(folder: Path) -> str:
    """SHA-256 of the checkpoint that gives a teacher's logits."""
    best = folder / "best.ckpt"
    return compute_sha256(best if best.is_file() else folder / "last.ckpt")


def read_logits(path: Path, subset: int, root: Path, filenames: Sequence[str]) -> NDArray[np.float32]:
    """The logits of some clips, (clips, classes), in the order of `filenames`.

    Args:
        path: logits.h5, with origin.json and seen.tsv beside it.
        subset: that the student is trained on.
        root: of the data.
        filenames: the student's clips.

    Raises:
        UserError: if they are of another subset or another list of clips, a teacher saw a clip outside the subset, the
            file was changed since it was written, or clips are missing, doubled or NaN.
    """
    path = Path(path)
    origin = read_origin(path)
    if origin["subset"] != subset:
        raise UserError(
            f"{path} holds logits of teachers for subset {origin['subset']}, the student learns subset {subset}. "
            "Teachers may only have seen what the student may see; write logits for this subset."
        )
    if origin["subset_sha256"] != list_digest(read_split(root, subset)["filename"]):
        raise UserError(f"{path} was written for another list of split {subset} than that below {root}.")
    if tuple(origin["classes"]) != CLASSES:
        raise UserError(f"{path} holds logits of the classes {', '.join(origin['classes'])}, in that order.")
    # Before the digest, so that a doubled or missing clip is named.
    outputs = KeyedOutputs(path, "logits", (len(CLASSES),))
    logits = outputs.read(outputs.rows(filenames)).astype(np.float32)
    for name, key in ((path, "logits_sha256"), (path.with_name(SEEN), "seen_sha256")):
        if not name.is_file() or compute_sha256(name) != origin[key]:
            raise UserError(f"{name} is not the file that {path.with_name(ORIGIN)} describes; write the logits again.")
    refuse_outside(read_seen(path.parent), root, subset, f"A teacher of {path}")
    return logits


def read_origin(path: Path) -> dict[str, Any]:
    """The origin.json of a file of logits.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    place = Path(path).with_name(ORIGIN)
    if not place.exists():
        raise UserError(f"{path} has no {ORIGIN} beside it, which says what its teachers have seen.")
    keys = {"subset": int, "subset_sha256": str, "classes": list, "seen_sha256": str, "logits_sha256": str}
    return read_json(place, "write the logits again", keys)

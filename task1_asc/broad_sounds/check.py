"""Download of the data sets, and `data check`: counts, audio, vectors, licences."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from common.data.archives import download_and_unpack
from common.data.audio import AudioError, AudioInfo
from common.data.check_report import CheckReport, read_headers
from common.data.download import download as download_file
from common.data.download import zenodo_files
from common.data.files import is_made_up, read_marker
from common.errors import UserError
from common.output import print_table
from task1_asc.broad_sounds.data import FREE_LICENCES, SoundSet, find_sets, licence, read_sounds
from task1_asc.broad_sounds.embeddings import OWN, read_vector
from task1_asc.broad_sounds.taxonomy import CODES, OTHERS

RECORDS = {"bsd10k": 17233904, "bsd35k-cs": 19187100, "bsd2k": 20442928}
"""Zenodo records; the one of BSD10k leads to its newest version."""
FOLDERS = {"bsd10k": "BSD10k", "bsd35k-cs": "BSD35k-CS", "bsd2k": "BSD2k"}
OFFICIAL: dict[str, dict[str, int]] = {
    "bsd10k": dict(zip(CODES, (
        683, 721, 323, 606, 528, 566, 362, 297, 806, 177, 364, 1211, 201, 279, 975, 166, 652, 297, 208, 391, 207, 719,
        217,
    ))),
    "bsd35k-cs": dict(zip((*CODES, *OTHERS), (
        964, 1344, 2044, 2321, 293, 34, 43, 1360, 980, 50, 69, 4534, 1852, 1542, 1423, 730, 659, 839, 2000, 4831, 383,
        2573, 596, 533, 120, 108, 1143, 461,
    ))),
}  # fmt: skip
"""Clips of each class; BSD10k counted from the published folds (v1.2)."""
SHOWN = 5


class SoundReport(CheckReport):
    """A column for each data set."""

    def print_tables(self) -> None:
        """Print the counts for people."""
        names = dict.fromkeys(name for row in self.rows for name in row if name != "set")
        table = [{"": name, **{row["set"]: row.get(name) for row in self.rows}} for name in names]
        print_table(table, title=f"{'Made-up data in ' if self.made_up else ''}{self.root}")


def download(root: Path, name: str, record: int | None = None, delete_archives: bool = False) -> Path:
    """Download and unpack a data set; resumes when repeated.

    Args:
        root: folder that will hold the set's folder; archives are kept in `root/archives`.
        name: bsd10k, bsd35k-cs or bsd2k.
        record: Zenodo record; None takes the kit's.
        delete_archives: remove each archive after unpacking.

    Raises:
        UserError: as `common.data.download.download`.
    """
    folder, archives = root / FOLDERS[name], root / "archives" / name
    for file in zenodo_files(record or RECORDS[name], archives):
        if file.name.endswith((".zip", ".tar.gz")):
            download_and_unpack(file, archives, folder, delete_archives)
        else:
            download_file(file, folder)
    return folder


def check_data(root: Path, commercial_only: bool = False, workers: int = 8) -> SoundReport:
    """Compare data sets with what was published, or with the counts of their creation.

    Args:
        root: of one set, or of several.
        commercial_only: count only clips that may be used commercially.
        workers: threads that open files.

    Raises:
        UserError: if there is no set, or its table cannot be read.
    """
    folders = find_sets(root)
    made_up = any(is_made_up(place) for place in (root, root.parent))
    report = SoundReport(root, made_up)
    numbers = read_marker(root if is_made_up(root) else root.parent)["numbers"] if made_up else {}
    for folder in folders:
        sounds = read_sounds(folder, others=True)
        official = OFFICIAL.get(sounds.kind, {})
        expected = numbers.get(FOLDERS[sounds.kind]) if made_up else sum(official.values()) or None
        if sounds.kind != "bsd2k":
            licences = sounds.clips["license"].map(licence)
            if commercial_only:
                kept = licences.isin(FREE_LICENCES).to_numpy()
                sounds = SoundSet(sounds.kind, sounds.root, sounds.clips[kept].reset_index(drop=True))
        report.rows.append(_count(sounds, None if commercial_only else expected))
        if not commercial_only and expected is not None:
            _compare_counts(report, sounds, expected, {} if made_up else official)
        _check_audio(report, sounds, workers)
        _check_vectors(report, sounds)
    return report


def _count(sounds: SoundSet, expected: int | None) -> dict[str, Any]:
    clips, row = sounds.clips, dict[str, Any]()
    row |= {"set": FOLDERS[sounds.kind], "clips": len(clips), "expected": expected}
    if sounds.kind != "bsd2k":
        found = clips["license"].map(licence).value_counts()
        row["of 23 classes"] = int((~clips["class"].isin(OTHERS)).sum())
        row |= {name: int(found.get(name, 0)) for name in (*FREE_LICENCES, "CC BY-NC", "other")}
        row["uploaders"] = clips["uploader"].nunique()
        row["no confidence"] = int(clips["confidence"].isna().sum())
    row["no text"] = sum(not text for text in sounds.texts())
    return row


def _compare_counts(report: CheckReport, sounds: SoundSet, expected: int, official: dict[str, int]) -> None:
    name = FOLDERS[sounds.kind]
    if len(sounds.clips) != expected:
        report.problems.append(
            f"{sounds.root} has {len(sounds.clips):,} of {expected:,} clips, so its folds will differ. Download its "
            "table again, or use the version that the challenge names."
        )
    elif official:
        found = sounds.clips["class"].value_counts()
        other = [
            f"{code} {found.get(code, 0)} of {count}" for code, count in official.items() if found.get(code, 0) != count
        ]
        if other:
            report.problems.append(f"Classes of {name} have other counts than published: {', '.join(other[:SHOWN])}.")


def _check_audio(report: CheckReport, sounds: SoundSet, workers: int) -> None:
    paths = sounds.paths()
    missing = [path.name for path in paths if not path.is_file()]
    _note(report, sounds, "audio", missing, "have no wav file", len(paths))
    there = [path for path in paths if path.is_file()]
    headers = read_headers(there, f"Checking {sounds.kind}", workers)
    damaged = [path.name for path, header in zip(there, headers) if isinstance(header, AudioError)]
    _note(report, sounds, "audio", damaged, "cannot be read", len(paths))
    seconds = [header.duration for header in headers if isinstance(header, AudioInfo)]
    shortest, longest = min(seconds, default=math.nan), max(seconds, default=0.0)
    report.rows[-1] |= {"hours": round(sum(seconds) / 3600, 2), "shortest s": round(shortest, 4)}
    if longest > 30.1:
        report.problems.append(f"{sounds.root / 'audio'} has a file of {longest:.1f} s; clips last at most 30 s.")


def _check_vectors(report: CheckReport, sounds: SoundSet) -> None:
    """Missing vectors of the published encoders are named: the baseline skips such clips, and its folds move."""
    for folder in OWN.values():
        place = sounds.root / "features" / folder
        if not place.is_dir():
            report.rows[-1][folder.split("_")[1] + " vectors"] = "no folder"
            continue
        missing, damaged, sizes = [], [], {}
        for name in sounds.ids:
            path = place / f"{name}.npy"
            try:
                sizes[name] = len(read_vector(path)) if path.is_file() else None
            except UserError:
                damaged.append(path.name)
            if name in sizes and sizes[name] is None:
                missing.append(path.name)
        known = Counter(sorted(filter(None, sizes.values())))
        other = [f"{name}.npy" for name, size in sizes.items() if size and size != known.most_common(1)[0][0]]
        _note(report, sounds, f"features/{folder}", missing, "are missing", len(sounds.ids))
        _note(report, sounds, f"features/{folder}", damaged, "are damaged or hold NaN", len(sounds.ids))
        _note(report, sounds, f"features/{folder}", other, "are of another size than the others", len(sounds.ids))
        report.rows[-1][folder.split("_")[1] + " vectors"] = len(sounds.ids) - len(missing) - len(damaged)


def _note(report: CheckReport, sounds: SoundSet, place: str, names: list[str], what: str, total: int) -> None:
    if names:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        report.problems.append(f"{sounds.root / place}: {len(names):,} of {total:,} {what} ({shown}).")

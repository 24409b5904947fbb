"""`data check`: compares the data on disk with the published counts, and reads every file's header."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.audio import AudioError, AudioInfo
from common.data.check_report import CheckReport, read_headers
from common.data.files import is_made_up, read_marker
from common.errors import UserError
from task1_asc.data.tau2022 import (
    CLASSES,
    CLIP_SAMPLES,
    DEVICE_GROUPS,
    DEVICES,
    SAMPLE_RATE,
    SUBSETS,
    development_folder,
    evaluation_folder,
    read_clips,
    read_evaluation,
    read_split,
)

if TYPE_CHECKING:
    import pandas as pd

# Clips per device in the order of DEVICES, counted in the published lists; the classes as the publisher gives them.
OFFICIAL_DEVICES = {
    "5": (5080, 380, 380, 380, 380, 380, 0, 0, 0),
    "10": (10190, 730, 790, 740, 750, 760, 0, 0, 0),
    "25": (25520, 1900, 1920, 1840, 1850, 1870, 0, 0, 0),
    "50": (51100, 3780, 3780, 3720, 3700, 3720, 0, 0, 0),
    "100": (102150, 7490, 7480, 7500, 7500, 7500, 0, 0, 0),
    "test": (3300, 3290, 3290, 3300, 3300, 3300, 3300, 3300, 3300),
    "neither": (38550, 0, 0, 0, 0, 0, 7500, 7500, 7500),
}
OFFICIAL_SCENES = {
    "100": (13930, 14000, 13820, 13800, 14290, 14270, 13730, 13860, 14130, 13790),
    "test": (2960, 2970, 2970, 2970, 2970, 2970, 2970, 2970, 2970, 2960),
}
OFFICIAL_EVALUATION = {2024: 135_730}
FILES_SHOWN = 5


def check_data(root: Path, evaluation: int | None = None, workers: int = 8) -> CheckReport:
    """Compare the development set, or a year's evaluation set, with what was published.

    Args:
        root: of the data.
        evaluation: year of an evaluation set; None checks the development set.
        workers: threads that open files.

    Raises:
        UserError: if meta.csv cannot be used at all (see `read_clips`).
    """
    if evaluation is not None:
        return _check_evaluation(root, evaluation, workers)
    folder = development_folder(root)
    clips = read_clips(root)
    report = CheckReport(folder, is_made_up(folder))
    expected = read_marker(folder).get("numbers", {}) if report.made_up else _official_numbers()
    splits = {}
    for split in (*SUBSETS, "test"):
        try:
            splits[str(split)] = read_split(root, split)
        except UserError as error:
            if str(error) not in report.problems:  # the test list is read with every other one
                report.problems.append(str(error))
    if {"100", "test"} <= splits.keys():
        used = set(splits["100"]["filename"]) | set(splits["test"]["filename"])
        splits["neither"] = clips[~clips["filename"].isin(used)]
    for split, members in splits.items():
        _compare(report, split, members, expected.get(split, {}))
    _check_nesting(report, splits)
    _check_files(report, folder, clips["filename"], workers)
    return report


def _check_evaluation(root: Path, year: int, workers: int) -> CheckReport:
    folder = evaluation_folder(root, year)
    clips = read_evaluation(root, year)
    report = CheckReport(folder, is_made_up(folder))
    expected = OFFICIAL_EVALUATION.get(year)
    if report.made_up:
        expected = read_marker(folder).get("numbers", {}).get("evaluation", {}).get("clips")
    report.rows.append({"split": f"evaluation {year}", "clips": len(clips), "expected": expected})
    if expected is not None and len(clips) != expected:
        report.problems.append(_count_sentence(f"evaluation set {year}", "clips", len(clips), expected))
    _check_files(report, folder, clips["filename"], workers)
    return report


def _official_numbers() -> dict[str, dict]:
    return {
        split: {
            "clips": sum(devices),
            "segments": sum(devices) // 10,
            "devices": dict(zip(DEVICES, devices)),
            "scenes": dict(zip(CLASSES, OFFICIAL_SCENES.get(split, ()))),
        }
        for split, devices in OFFICIAL_DEVICES.items()
    }


def _compare(report: CheckReport, split: str, members: "pd.DataFrame", expected: dict) -> None:
    devices, scenes = members["source_label"].value_counts(), members["scene_label"].value_counts()
    segments = len(members[["segment", "source_label"]].drop_duplicates())
    row = {"split": split, "clips": len(members), "expected": expected.get("clips"), "segments": segments}
    report.rows.append(row | {device: int(devices.get(device, 0)) for device in DEVICES})
    found = [("clips", len(members), expected.get("clips")), ("segments", segments, expected.get("segments"))]
    found += [(f"clips of device {name}", devices.get(name, 0), n) for name, n in expected.get("devices", {}).items()]
    found += [(f"clips of {name}", scenes.get(name, 0), n) for name, n in expected.get("scenes", {}).items()]
    for what, count, wanted in found:
        if wanted is not None and count != wanted:
            report.problems.append(_count_sentence(f"split {split}", what, int(count), wanted))


def _count_sentence(where: str, what: str, found: int, expected: int) -> str:
    return f"The {where} has {found} {what}, expected {expected}; run `data download` again for its lists and tables."


def _check_nesting(report: CheckReport, splits: "dict[str, pd.DataFrame]") -> None:
    for smaller, larger in pairwise(str(subset) for subset in SUBSETS if str(subset) in splits):
        outside = set(splits[smaller]["filename"]) - set(splits[larger]["filename"])
        if outside:
            report.problems.append(
                f"{len(outside)} clips of split {smaller} are not in split {larger} (first {min(outside)}); "
                "run `data download` again for the lists."
            )
    if not {"100", "test"} <= splits.keys():
        return
    shared = set(splits["100"]["identifier"]) & set(splits["test"]["identifier"])
    if shared:
        report.problems.append(
            f"{len(shared)} places are in training and test (first {min(shared)}); use the official lists."
        )
    unseen = splits["100"]["source_label"].isin(DEVICE_GROUPS["unseen"]).sum()
    if unseen:
        report.problems.append(f"{unseen} training clips are of devices that occur in the test split only.")


def _check_files(report: CheckReport, folder: Path, filenames: Iterable[str], workers: int) -> None:
    names = list(filenames)
    found: dict[str, list[str]] = {}
    for name, header in zip(names, read_headers([folder / name for name in names], workers=workers)):
        if problem := _file_problem(folder / name, header):
            found.setdefault(problem, []).append(name)
    for problem, clips in found.items():
        more = f" and {len(clips) - FILES_SHOWN} more" if len(clips) > FILES_SHOWN else ""
        report.problems.append(
            f"{len(clips)} of {len(names)} files {problem}: {', '.join(clips[:FILES_SHOWN])}{more}. {REMEDIES[problem]}"
        )


REMEDIES = {
    "are missing": "Run `data download` again; it unpacks what is not there.",
    "cannot be read": "Delete them and run `data download` again.",
    "are not mono": "Restore the published files; the kit does not mix them down.",
    f"are not sampled at {SAMPLE_RATE} Hz": "Restore the published files; the kit resamples them itself.",
    "do not last one second": "Delete them and run `data download` again.",
}


def _file_problem(path: Path, info: AudioInfo | AudioError) -> str | None:
    if isinstance(info, AudioError):
        return "cannot be read" if path.is_file() else "are missing"
    if info.channels != 1:
        return "are not mono"
    if info.sample_rate != SAMPLE_RATE:
        return f"are not sampled at {SAMPLE_RATE} Hz"
    return None if info.samples == CLIP_SAMPLES else "do not last one second"

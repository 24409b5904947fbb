"""Counts, checksums and files of captioned data below a folder; recordings in both a training and a test split."""

from pathlib import Path

import pandas as pd

from common.data.audio import ENDINGS
from common.data.check_report import CheckReport
from common.data.files import is_made_up, walk_files
from common.errors import UserError
from retrieval.data.captions import (
    CLOTHO,
    COUNTS,
    MissingTable,
    check_split,
    clotho_folders,
    is_excluded,
    leaks,
    read_exclusions,
    read_manifest,
)

TRAINING = ("development", "train", *COUNTS["wavcaps"])


def check_data(root: Path, excluded: tuple[Path, ...] = ()) -> CheckReport:
    """Check every split of Clotho, AudioCaps and WavCaps that lies in a folder or in a folder of it.

    `excluded` are lists of source ids that the training leaves out, as `exclude` of the settings.

    Raises:
        UserError: if there is no captioned data, or a list is unreadable.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder.")
    report = CheckReport(root)
    ids = frozenset().union(*map(read_exclusions, excluded))
    places = [root, *sorted(path for path in root.glob("*/") if not path.name.startswith("."))]
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for dataset, splits in COUNTS.items():
        for split in splits:
            for place in places:
                try:
                    manifest = read_manifest(dataset, place, split)
                except MissingTable:
                    continue
                except UserError as error:
                    report.problems.append(str(error))
                    break
                report.problems += check_split(manifest, place)
                report.made_up |= is_made_up(place)
                found[dataset, split] = manifest
                break
    for split in COUNTS["clotho"]:
        folders = [folder for place in places for folder in clotho_folders(place, split)]
        if ("clotho", split) in found or not folders:
            continue
        if clips := sum(path.suffix.lower() in ENDINGS for path in walk_files(folders[0])):
            report.rows.append({"data set": "clotho", "split": split, "clips": clips, "captions": 0})
            report.problems.append(
                f"{folders[0]} holds {clips} clips (officially {CLOTHO[split][0]}), but there is no usable table "
                f"clotho_captions_{split}.csv; run `data download` again."
            )
    if not found and not report.problems:
        raise UserError(f"{root} holds no table of Clotho, AudioCaps or WavCaps. `data download` fetches Clotho.")
    evaluation = found.get(("clotho", "evaluation"))
    for (dataset, split), manifest in found.items():
        captions = int(manifest["captions"].map(len).sum())
        row = {"data set": dataset, "split": split, "clips": len(manifest), "captions": captions}
        if evaluation is not None and split in TRAINING:
            leaked = leaks(manifest[~is_excluded(manifest, ids)], evaluation)
            row["of evaluation recordings"] = len(leaked)
            if len(leaked):
                report.problems.append(
                    f"{len(leaked)} clips of {dataset} {split} come from recordings of the evaluation set, the first "
                    f"is {leaked['file_name'].iloc[0]!r}; name a list of ids in `exclude` that removes them."
                )
        report.rows.append(row)
    return report

"""The official validator of DCASE 2024 Task 1 and the kit's checks agree on valid and invalid packages.

The official rules are those of toni-heittola/dcase2024_task1_submission_validator, written down again here. Packages
that only the kit refuses, because the official validator looks at less, are listed in submissions/README.md.
"""

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from submissions.package import check_package
from submissions.report import passes
from tests.support.damage import meta, named, put, rewrite
from tests.support.packages import edit_meta, write_task1

CLASSES = ["airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
           "street_traffic", "tram"]  # fmt: skip
REQUIRED = {
    "submission": ["label", "name", "abbreviation", "authors"],
    "system": ["description", "complexity", "external_datasets", "source_code"],
    "results": ["development_dataset"],
}
SPLIT = "*split_25.csv"


def official(package: Path, files: set[str]) -> bool:
    """Whether the official validator would accept a package whose evaluation set has these files."""
    systems = [path for path in (package / "task1").iterdir() if path.is_dir()]
    above = [path for path in (package / "task1").iterdir() if path.is_file() and path.suffix != ".pdf"]
    return len(systems) <= 4 and not above and all(_accepts(system, files) for system in systems)


def _accepts(system: Path, files: set[str]) -> bool:
    parts = system.name.split("_")
    if len(parts) != 4 or parts[2] != "task1" or parts[3] not in "1234":
        return False
    tables = {f"{system.name}.output.split_{split}.csv" for split in (5, 10, 25, 50, 100)}
    known = tables | {f"{system.name}.meta.yaml"}
    if any(path.name not in known and path.suffix != ".pdf" for path in system.iterdir()):
        return False
    with (system / f"{system.name}.meta.yaml").open() as file:
        return _accepts_meta(yaml.safe_load(file), system.name) and all(
            _accepts_table(system / name, files) for name in tables if (system / name).exists()
        )


def _accepts_meta(data: dict, label: str) -> bool:
    if any(key not in data.get(group, {}) for group, keys in REQUIRED.items() for key in keys):
        return False
    submission, authors = data["submission"], data["submission"]["authors"]
    corresponding = sum(author.get("corresponding") is True for author in authors)
    whole = all(author.get(key) for author in authors for key in ("lastname", "firstname", "email", "affiliation"))
    return (
        submission["label"] == label
        and len(submission["abbreviation"]) <= 10
        and corresponding == 1
        and whole
        and isinstance(data["system"]["complexity"].get("total_parameters"), int)
    )


def _accepts_table(path: Path, files: set[str]) -> bool:
    text = path.read_bytes().decode("utf-8")  # not utf-8-sig: a byte order mark becomes part of the first name
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    if not rows or list(rows[0]) != ["filename", "scene_label", *CLASSES]:
        return False
    names = [row["filename"].rpartition("/")[2] for row in rows]
    try:
        for row in rows:
            [float(row[name]) for name in CLASSES]
    except (TypeError, ValueError):
        return False
    return set(names) == files and len(names) == len(files) and all(row["scene_label"] in CLASSES for row in rows)


def fold(package: Path) -> None:
    """Files with a folder before their names, in every table."""
    for path in package.rglob("*.csv"):
        rows = path.read_text().splitlines()
        path.write_text("\n".join([rows[0], *(f"audio/{row}" for row in rows[1:])]) + "\n")


def without_log_losses(data: dict) -> None:
    for split in data["results"]["development_dataset"].values():
        for group in (split["class_wise"], split["device_wise"], {"overall": split["overall"]}):
            for figures in group.values():
                figures["logloss"] = None


def rename(package: Path, label: str) -> None:
    edit_meta(package, put("submission", "label", value=label))
    system = meta(package).parent
    for path in list(system.iterdir()):
        path.rename(path.with_name(path.name.replace(system.name, label)))
    system.rename(system.with_name(label))


CASES = {
    "as the template asks": (lambda p: None, True),
    "no log losses": (lambda p: edit_meta(p, without_log_losses), True),
    "a folder before the names": (fold, True),
    "a last name in other letters": (lambda p: rename(p, "Müller-O'Neil_TU.1_task1_4"), True),
    "keys of the team's own": (lambda p: edit_meta(p, put("system", "description", "hardware", value="1 GPU")), True),
    "a further pdf, and a folder of another task": (
        lambda p: (
            shutil.copy(named(p, "*.pdf"), meta(p).parent / "figures.pdf"),
            (p / "task4").mkdir(),
            (p / "task4" / "x.txt").write_text("x"),
        ),
        True,
    ),
    "MACs and a size with their units": (
        lambda p: edit_meta(
            p, lambda data: data["system"]["complexity"].update(macs="29.4 MMACs", total_model_size="122 kB")
        ),
        True,
    ),
    "a byte order mark": (lambda p: named(p, SPLIT).write_bytes(b"\xef\xbb\xbf" + named(p, SPLIT).read_bytes()), False),
    "True for probabilities": (rewrite(SPLIT, lambda table: table.assign(tram="True")), False),
    "an unknown label": (rewrite(SPLIT, lambda table: table.assign(scene_label="beach")), False),
    "a file that is missing": (rewrite(SPLIT, lambda table: table.iloc[1:]), False),
    "a table among the others": (lambda p: (meta(p).parent / "notes.csv").write_text("x"), False),
    "a label of five parts": (lambda p: rename(p, "Last_Name_INST_task1_1"), False),
    "two corresponding authors": (
        lambda p: edit_meta(p, put("submission", "authors", 1, "corresponding", value=True)),
        False,
    ),
    "a long abbreviation": (lambda p: edit_meta(p, put("submission", "abbreviation", value="eleven_long")), False),
    "another label in the meta file": (
        lambda p: edit_meta(p, put("submission", "label", value="Lastname_INST_task1_3")),
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_give_the_same_verdict(tmp_path, name):
    package = write_task1(tmp_path)
    damage, valid = CASES[name]
    damage(package)
    assert official(package, {f"{number}.wav" for number in range(12)}) is valid
    results = check_package(package)[1]
    assert passes(results) is valid, [result for result in results if not result.holds]

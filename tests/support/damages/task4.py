"""Damages of a package of Task 4."""

import shutil
from pathlib import Path

import pandas as pd

from tests.support.damage import Damage, cell, drop, in_meta, named, prepend, put, rewrite
from tests.support.packages import edit_declaration, score_table


def table4(run: int = 2, kind: str = "", clip: str = "clip_1") -> str:
    return f"*_run{run}{kind}.output/{clip}.tsv"


def folder4(package: Path, run: int = 2, kind: str = "") -> Path:
    return named(package, f"*_run{run}{kind}.output")


def into_a_subfolder(package: Path) -> None:
    folder = folder4(package)
    (folder / "sub").mkdir()
    for path in folder.glob("*.tsv"):
        path.write_text("garbage")
        path.rename(folder / "sub" / path.name)


def copied(run: int, other: int, factor: float, clips: int = 3):
    """A damage: the scores of some clips of a run are the other run's, times a factor."""

    def damage(package: Path) -> None:
        for path in sorted(folder4(package, other).glob("*.tsv"))[:clips]:
            table = pd.read_csv(path, sep="\t")
            table.iloc[:, 2:] *= factor
            table.to_csv(folder4(package, run) / path.name, sep="\t", index=False)

    return damage


def longer_in_one_run(package: Path) -> None:
    edit_declaration(package, lambda data: data.pop("durations"))
    score_table(7, 24).to_csv(named(package, table4(3)), sep="\t", index=False)
    path = named(package, table4(3))
    path.write_text(path.read_text() + path.read_text().splitlines()[-1].replace("9.583\t10.0", "10.0\t12.0") + "\n")


def codecarbon(change):
    def damage(package: Path) -> None:
        path = named(package, "*.codecarbon.training.csv")
        change(table := pd.read_csv(path))
        table.to_csv(path, index=False)

    return damage


ENERGY = ("system", "energy")
TASK4: dict[str, Damage] = {
    "a run's tables in a subfolder": (into_a_subfolder, "files", "_run2.output/*.tsv is missing"),
    "tables that no rule would read": (into_a_subfolder, "no_other_files", "_run2.output/sub/clip_0.tsv"),
    "a declared run that was not read": (into_a_subfolder, "same_clips", "_run2.output 3 of 3 clips are missing"),
    "a fourth run": (
        lambda p: shutil.copytree(folder4(p), folder4(p).with_name("Lastname_INST_task4_1_run4.output")),
        "no_other_files",
        "_run4.output/clip_0.tsv does not belong",
    ),
    "a run that is nearly another": (copied(2, 1, 0.999999), "runs_independent", "_run2.output 3 of 3 tables are"),
    "a run that is another at half the scale": (
        copied(3, 1, 0.5),
        "runs_independent",
        "_run3.output 3 of 3 tables are",
    ),
    "one clip of another run": (
        copied(2, 1, 1, clips=1),
        "runs_independent",
        "_run2.output 1 of 3 tables are the same",
    ),
    "a byte order mark": (
        prepend(table4(), b"\xef\xbb\xbf"),
        "score_columns",
        "clip_1.tsv:1 column 1 is '\\ufeffonset'",
    ),
    "True for a score": (rewrite(table4(), cell(6, 4, "True")), "score_numbers", "clip_1.tsv:8 Cat is nan"),
    "a comma for a score": (rewrite(table4(), cell(6, 4, "0,5")), "score_numbers", "clip_1.tsv:8 Cat is nan"),
    "a negative score": (rewrite(table4(), cell(6, 4, "-0.5")), "score_numbers", "clip_1.tsv:8 Cat is -0.5"),
    "a negative time": (rewrite(table4(), cell(0, 0, "-1")), "frames", "clip_1.tsv:2 the first frame starts at -1 s"),
    "frames in another order": (
        rewrite(table4(), lambda table: table.iloc[::-1]),
        "frames",
        "clip_1.tsv:2 the first frame starts at 9.5 s",
    ),
    "a header and no rows": (rewrite(table4(), lambda table: table.iloc[:0]), "score_columns", "clip_1.tsv:2 1 fields"),
    "commas between columns": (
        lambda p: named(p, table4()).write_text(named(p, table4()).read_text().replace("\t", ",")),
        "score_columns",
        "clip_1.tsv:1 column 1 is 'onset,offset",
    ),
    "times in milliseconds": (
        rewrite(table4(), lambda table: table.assign(offset=table["offset"].astype(float) * 1000)),
        "frames",
        "clip_1.tsv:3 the frame starts at",
    ),
    "a clip longer in one run, without durations": (
        longer_in_one_run,
        "durations",
        "clip_1.tsv ends at 12 s, but at 10",
    ),
    "a training that was not measured": (
        codecarbon(lambda table: table.__setitem__("energy_consumed", True)),
        "energy",
        "system.energy.training_kwh is 1.5 kWh, but",
    ),
    "energy without rows": (
        codecarbon(lambda table: table.drop(index=table.index, inplace=True)),
        "energy",
        "codecarbon.training.csv:1 has no rows",
    ),
    "energy that is bytes": (
        lambda p: named(p, "*.codecarbon.training.csv").write_bytes(b"\xff\xfe\x00"),
        "energy",
        "codecarbon.training.csv is not a csv of CodeCarbon",
    ),
    "energy as text": (
        in_meta(put(*ENERGY, "training_kwh", value="a lot")),
        "meta_form",
        "system.energy.training_kwh must be a number, 1e-12 or more, found 'a lot'",
    ),
    "no energy of the reference": (
        in_meta(drop(*ENERGY, "reference_training_kwh")),
        "meta_form",
        "system.energy.reference_training_kwh is missing",
    ),
    "an mpAUC above 1": (
        in_meta(put("results", "development_dataset", "mpAUC", value=1.2)),
        "meta_form",
        "results.development_dataset.mpAUC must be a number from 0 to 1, found 1.2",
    ),
    "a hidden file of an editor": (
        lambda p: (folder4(p) / ".clip_1.tsv.swp").write_text("x"),
        "no_other_files",
        "_run2.output/.clip_1.tsv.swp",
    ),
}

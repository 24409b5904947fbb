"""Twenty further damages of each kind of package: each is found, and its place named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from tests.support.damage import Damage, assert_found, broken, drop, edit_line, meta, named, put, rewrite
from tests.support.packages import (
    INFERENCE_NAME,
    edit_declaration,
    edit_json,
    edit_meta,
    module,
    predictions,
    replace,
    score_table,
    set_figure,
    write_inference,
    write_retrieval,
    write_task1,
    write_task4,
)

COMPLEXITY, RESULTS = ("system", "complexity"), ("results", "development_dataset")
EVALUATION = ("results", "development_evaluation")


def cell(row: int, column: int, value: str):
    def change(table: pd.DataFrame) -> None:
        table.iat[row, column] = value

    return change


def content(pattern: str, old: bytes, new: bytes):
    """A damage: bytes of a file replaced once."""

    def damage(package: Path) -> None:
        path = named(package, pattern)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))

    return damage


def prepend(pattern: str, start: bytes):
    return lambda package: named(package, pattern).write_bytes(start + named(package, pattern).read_bytes())


def in_meta(change):
    return lambda package: edit_meta(package, change)


def report(text: bytes):
    return lambda package: named(package, "*.technical_report.pdf").write_bytes(text)


def second_system(package: Path, label: str) -> None:
    system = meta(package).parent
    shutil.copytree(system, system.with_name(label))


def scaled(own: int, other: int, factor: float):
    """A damage of Task 1: the table of one split is the table of another, times a factor."""

    def damage(package: Path) -> None:
        table = pd.read_csv(named(package, f"*split_{other}.csv"), sep="\t")
        table.iloc[:, 2:] *= factor
        table.to_csv(named(package, f"*split_{own}.csv"), sep="\t", index=False)

    return damage


def half_of_the_rows(package: Path) -> None:
    first, other = (pd.read_csv(named(package, f"*split_{split}.csv"), sep="\t") for split in (5, 10))
    other.iloc[:6] = first.iloc[:6]
    other.to_csv(named(package, "*split_10.csv"), sep="\t", index=False)


def scores_moved_by_a_file(package: Path) -> None:
    table = pd.read_csv(named(package, "*split_5.csv"), sep="\t")
    table["filename"] = np.roll(table["filename"], 1)
    table.to_csv(named(package, "*split_10.csv"), sep="\t", index=False)


SPLIT = "*split_25.csv"
TASK1: dict[str, Damage] = {
    "a byte order mark": (
        prepend(SPLIT, b"\xef\xbb\xbf"),
        "table_form",
        "split_25.csv:1 starts with a byte order mark",
    ),
    "a header and no rows": (
        rewrite(SPLIT, lambda table: table.iloc[:0]),
        "table_form",
        "split_25.csv has no rows",
    ),
    "a second copy of the first row": (
        rewrite(SPLIT, lambda table: pd.concat([table.iloc[[0]], table])),
        "evaluation_files",
        "split_25.csv:3 '0.wav' is listed twice",
    ),
    "the same file with and without its folder": (
        rewrite(SPLIT, cell(1, 0, "audio/0.wav")),
        "evaluation_files",
        "split_25.csv:3 '0.wav' is listed twice",
    ),
    "a decimal comma": (rewrite(SPLIT, cell(4, 3, "0,25")), "numbers", "split_25.csv:6 bus is 0,25"),
    "True for a probability": (rewrite(SPLIT, cell(4, 3, "True")), "numbers", "split_25.csv:6 bus is True"),
    "an infinite probability": (rewrite(SPLIT, cell(0, 2, "inf")), "numbers", "split_25.csv:2 airport is inf"),
    "per cent in place of probabilities": (
        rewrite(SPLIT, lambda table: table.assign(tram=table["tram"].astype(float) * 100)),
        "sum",
        "split_25.csv:",
    ),
    "a label in capitals": (rewrite(SPLIT, cell(2, 1, "Tram")), "labels_known", "split_25.csv:4 'Tram' is not a class"),
    "a label that is empty": (rewrite(SPLIT, cell(2, 1, "")), "labels_known", "split_25.csv:4 '' is not a class"),
    "a table that is another one, nearly": (
        scaled(10, 5, 0.9999),
        "tables_differ",
        "split_10.csv holds the same scores",
    ),
    "half of the rows of another table": (half_of_the_rows, "tables_differ", "for 6 of 12 files"),
    "the scores of another table for other files": (scores_moved_by_a_file, "tables_differ", "for other files"),
    "a table in a subfolder": (
        lambda p: shutil.move(named(p, SPLIT), (named(p, SPLIT).parent / "x").mkdir() or named(p, SPLIT).parent / "x"),
        "files",
        "split_25.csv is missing",
    ),
    "a report of a page that is cut off": (report(b"%PDF-1.4\n1 0 obj"), "technical_report", "cut off"),
    "a report without a page": (report(b"%PDF-1.4\n%%EOF\n"), "technical_report", "a PDF without a page"),
    "labels of two teams": (
        lambda p: second_system(p, "Other_INST_task1_2"),
        "label",
        "task1 labels of one team differ before the number: Lastname_INST_task1, Other_INST_task1",
    ),
    "an author twice": (
        in_meta(lambda data: data["submission"]["authors"].append(data["submission"]["authors"][1])),
        "authors",
        "Otherfirstname Otherlastname is listed twice",
    ),
    "an accuracy that is missing": (
        in_meta(put(*RESULTS, "split_5", "device_wise", "s6", "accuracy", value=None)),
        "meta_form",
        "split_5.device_wise.s6.accuracy must be a number from 0 to 100, found nothing",
    ),
    "accuracies as fractions": (
        in_meta(
            lambda data: [
                figures.update(accuracy=figures["accuracy"] / 100)
                for figures in data["results"]["development_dataset"]["split_25"]["class_wise"].values()
            ]
        ),
        "figures_plausible",
        "every accuracy of split_25 is",
    ),
    "an overall accuracy outside its devices": (
        in_meta(
            lambda data: [
                figures.update(accuracy=1.0)
                for figures in data["results"]["development_dataset"]["split_25"]["device_wise"].values()
            ]
        ),
        "figures_consistent",
        "outside its devices' 1 to 1",
    ),
    "a log loss outside its classes": (
        in_meta(put(*RESULTS, "split_25", "overall", "logloss", value=4.2)),
        "figures_consistent",
        "split_25 overall log loss is 4.2, outside its classes'",
    ),
    "an infinite count": (
        in_meta(put(*COMPLEXITY, "macs", value=float("inf"))),
        "meta_form",
        "system.complexity.macs must be a number, 1 or more or text, found inf",
    ),
    "no meta file but a list": (
        lambda p: meta(p).write_text("- a\n- b\n"),
        "meta_form",
        ".meta.yaml:1 the file must hold",
    ),
    "an empty meta file": (lambda p: meta(p).write_text("# nothing\n"), "meta_readable", ".meta.yaml:1 holds nothing"),
}


def edit_source(old: str, new: str):
    return lambda package: replace(module(package), old, new)


def predicted(change) -> Callable[[Path], None]:
    return rewrite("output.csv", change)


def figures(change) -> Callable[[Path], None]:
    return lambda package: edit_json(predictions(package) / "complexity.json", change)


def second_package(package: Path) -> None:
    shutil.copytree(package / INFERENCE_NAME, package / "Other_INST_task1")
    for path in (package / "Other_INST_task1").glob(f"{INFERENCE_NAME}_*.py"):
        path.rename(path.with_name(path.name.replace(INFERENCE_NAME, "Other_INST_task1")))


INFERENCE: dict[str, Damage] = {
    "a second package": (second_package, "package_name", f"has 2 packages, {INFERENCE_NAME}, Other_INST_task1"),
    "five systems": (
        lambda p: [
            shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_{number}.py") for number in (2, 3, 4, 5)
        ],
        "package_name",
        "5 modules, at most 4",
    ),
    "a system numbered 7": (
        lambda p: shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_7.py"),
        "label",
        f"{INFERENCE_NAME}_7",
    ),
    "a system without predictions": (
        lambda p: shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_2.py"),
        "package_files",
        f"predictions/{INFERENCE_NAME}_2/complexity.json is missing",
    ),
    "an empty checkpoint": (
        lambda p: (p / INFERENCE_NAME / "ckpts" / "model.ckpt").write_bytes(b""),
        "package_files",
        f"{INFERENCE_NAME}/ckpts/model.ckpt is empty",
    ),
    "an empty script": (lambda p: (p / "setup.py").write_text(""), "package_files", "setup.py is empty"),
    "an empty table of the evaluation set": (
        lambda p: (predictions(p) / "output.csv").write_text(""),
        "package_files",
        "output.csv is empty",
    ),
    "no list of the test split": (
        lambda p: (p / INFERENCE_NAME / "resources" / "test.csv").unlink(),
        "package_files",
        f"{INFERENCE_NAME}/resources/test.csv is missing",
    ),
    "a module that is not Python": (
        edit_source("def load_model", "def load model"),
        "interface",
        f"{INFERENCE_NAME}_1.py is not",
    ),
    "a module nested too deep": (
        lambda p: module(p).write_text("x = " + "-" * 100_000 + "1\n"),
        "interface",
        f"{INFERENCE_NAME}_1.py is not Python",
    ),
    "predict as an attribute": (
        edit_source(
            "def predict(file_paths, device_ids, model_file_path=None, **official_script):", "def _predict(a):"
        ),
        "interface",
        "has no function predict(file_paths, device_ids, model_file_path)",
    ),
    "a further argument without default": (
        edit_source(
            "def load_inputs(file_paths, device_ids, model)", "def load_inputs(file_paths, device_ids, model, rate)"
        ),
        "interface",
        "argument rate of load_inputs needs a default",
    ),
    "a dummy clip in stereo": (
        lambda p: soundfile.write(p / INFERENCE_NAME / "resources" / "dummy.wav", np.zeros((44_100, 2)), 44_100),
        "dummy_clip",
        "dummy.wav has 2 channels",
    ),
    "a dummy clip that is text": (
        lambda p: (p / INFERENCE_NAME / "resources" / "dummy.wav").write_text("clip"),
        "dummy_clip",
        "dummy.wav is not audio",
    ),
    "nested JSON": (
        lambda p: (predictions(p) / "complexity.json").write_text('{"a":' * 100_000),
        "complexity_file",
        "complexity.json is not JSON",
    ),
    "JSON that is a list": (
        lambda p: (predictions(p) / "test_accuracy.json").write_text("[52.3]"),
        "test_accuracy",
        "test_accuracy.json is not a JSON object",
    ),
    "true for a count": (set_figure("c", "MACs", True), "complexity_file", "per_device.c.MACs is True, no count"),
    "a count with a fraction": (set_figure("c", "Params", 9.5), "complexity_file", "per_device.c.Params is 9.5"),
    "a device without figures": (
        figures(lambda data: data["per_device"].update(s10="small")),
        "complexity_file",
        "has no device s10",
    ),
    "a maximum that is none": (
        figures(lambda data: data.update(max_Params=1)),
        "complexity_file",
        "max_Params is 1, but the most of a device is 122296",
    ),
    "no accuracy": (
        lambda p: edit_json(predictions(p) / "test_accuracy.json", lambda data: data.pop("Test Accuracy")),
        "test_accuracy",
        "Test Accuracy is None",
    ),
    "an accuracy above 100": (
        lambda p: edit_json(predictions(p) / "test_accuracy.json", lambda data: data.update({"Test Accuracy": 523})),
        "test_accuracy",
        "Test Accuracy is 523",
    ),
    "probabilities in other columns": (
        predicted(lambda table: table.rename(columns={"bus": "tram", "tram": "bus"})),
        "table_form",
        "output.csv:1 column 4 is 'tram', expected 'bus'",
    ),
    "False for a probability": (predicted(cell(3, 5, "False")), "numbers", "output.csv:5 metro_station is False"),
    "a table of one answer": (
        predicted(lambda table: table.assign(**{name: table[name].iat[0] for name in table.columns[1:]})),
        "not_collapsed",
        "output.csv every row has the same answer",
    ),
}


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
OUTPUT = "*.output.csv"


def ranked(change) -> Callable[[Path], None]:
    return rewrite(OUTPUT, change, separator=",")


def figure(name: str, value: object) -> Callable[[Path], None]:
    return in_meta(put(*EVALUATION, name, value=value))


RETRIEVAL: dict[str, Damage] = {
    "a byte order mark": (
        prepend(OUTPUT, b"\xef\xbb\xbf"),
        "table_form",
        ".output.csv:1 starts with a byte order mark",
    ),
    "a header and no rows": (ranked(lambda table: table.iloc[:0]), "table_form", ".output.csv has no rows"),
    "tabs between columns": (
        lambda p: named(p, OUTPUT).write_text(named(p, OUTPUT).read_text().replace(",", "\t")),
        "table_form",
        ".output.csv",
    ),
    "a quotation mark that is not closed": (
        lambda p: edit_line(named(p, OUTPUT), 2, lambda row: '"' + row),
        "table_form",
        ".output.csv",
    ),
    "bytes that are not UTF-8": (
        content(OUTPUT, b"rain falls", b"rain \xff"),
        "table_form",
        ".output.csv:2 is not UTF-8",
    ),
    "a query in capitals": (content(OUTPUT, b"rain falls", b"RAIN FALLS"), "queries", ".output.csv:2 the query is"),
    "a blank behind a query": (content(OUTPUT, b"rain falls", b"rain falls "), "queries", ".output.csv:2 the query is"),
    "a query too many": (
        ranked(lambda table: pd.concat([table, table.iloc[[0]]])),
        "queries",
        ".output.csv 5 queries, expected 4",
    ),
    "the table in a subfolder": (
        lambda p: (named(p, OUTPUT).parent / "sub").mkdir() or shutil.move(named(p, OUTPUT), meta(p).parent / "sub"),
        "files",
        ".output.csv is missing",
    ),
    "a second table": (
        lambda p: shutil.copy(named(p, OUTPUT), meta(p).parent / "old.output.csv"),
        "no_other_files",
        "old.output.csv does not belong",
    ),
    "an empty table": (lambda p: named(p, OUTPUT).write_text(""), "files", ".output.csv is empty"),
    "mAP@10 below R@1": (figure("mAP@10", 0.1), "recall_plausible", "R@1 is 0.2, more than mAP@10 with 0.1"),
    "nothing found": (
        in_meta(
            lambda data: data["results"]["development_evaluation"].update({"R@1": 0, "R@5": 0, "R@10": 0, "mAP@10": 0})
        ),
        "recall_plausible",
        "R@10 is 0: no recording was found",
    ),
    "true for a figure": (figure("R@5", True), "meta_form", "R@5 must be a number from 0 to 1, found True"),
    "a figure as text": (figure("R@5", "0.5"), "meta_form", "R@5 must be a number from 0 to 1, found '0.5'"),
    "parameters in millions": (
        in_meta(put(*COMPLEXITY, "total_parameters", value=86.4)),
        "meta_form",
        "system.complexity.total_parameters must be a whole number",
    ),
    "no authors": (in_meta(put("submission", "authors", value=[])), "meta_form", "submission.authors must be a list"),
    "an author as text": (
        in_meta(put("submission", "authors", value=["Jane Doe"])),
        "meta_form",
        "submission.authors[0] must hold lastname, firstname",
    ),
    "names of authors as lists": (
        in_meta(put("submission", "authors", value=[{"lastname": ["a"], "firstname": {}}] * 2)),
        "authors",
        "0 authors are corresponding",
    ),
    "a template not filled in": (
        in_meta(put("system", "description", "audio_modelling", value="FILL IN (such as PaSST)")),
        "meta_filled_in",
        "system.description.audio_modelling still says",
    ),
    "a report that ends early": (
        report(b"%PDF-1.7\n1 0 obj <</Type /Page>>"),
        "technical_report",
        "is a PDF that is cut off",
    ),
    "a report of blank pages": (
        report(b"%PDF-1.4\n1 0 obj <</Type /Page /Contents 2 0 R>> endobj\n2 0 obj <<>> stream\nq Q\nendstream\n%%EOF"),
        "technical_report",
        "show neither text nor images",
    ),
}
KINDS = {
    "task1_2024": (write_task1, TASK1),
    "task1_2025": (write_inference, INFERENCE),
    "task4_2024": (write_task4, TASK4),
    "task8_2024": (lambda folder: write_retrieval(folder, "task8_2024"), {
        **RETRIEVAL,
        "True for a name": (ranked(cell(1, 2, "True")), "ranked_names", ".output.csv:3 'True' is no file of the set"),
        "a folder before a name": (content(OUTPUT, b"3 rain", b"audio/3 rain"), "ranked_names", "'audio/3 rain.wav'"),
        "another ending": (content(OUTPUT, b"3 rain.wav", b"3 rain.flac"), "ranked_names", "'3 rain.flac' is no file"),
    }),
    "task6_2025": (lambda folder: write_retrieval(folder, "task6_2025"), {
        **RETRIEVAL,
        "True for a similarity": (ranked(cell(1, 2, "True")), "numbers", ".output.csv:3 1 rain.wav is True"),
        "False for a whole row": (
            ranked(lambda table: table.iloc[[1]].assign(**dict.fromkeys(table.columns[1:], "False"))),
            "numbers",
            ".output.csv:2 0 rain.wav is False",
        ),
        "a decimal comma": (ranked(cell(3, 1, "0,5")), "numbers", ".output.csv:6 0 rain.wav is 0,5"),
    }),
}  # fmt: skip
CASES = [(kind, name) for kind, (_, damages) in KINDS.items() for name in damages]


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, (write, _) in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_valid_package_breaks_no_rule(valid, kind):
    assert broken(valid[kind]) == {}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_damage_is_found_and_its_place_is_named(valid, tmp_path, kind, name):
    package = shutil.copytree(valid[kind], tmp_path / valid[kind].name)
    assert_found(package, KINDS[kind][1][name])


def test_there_are_at_least_20_damages_of_each_kind():
    assert all(len(damages) >= 20 for _, damages in KINDS.values())

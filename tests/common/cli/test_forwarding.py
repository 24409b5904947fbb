"""What a verb is given reaches the function behind it, whose answer is printed."""

import json
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock, call

import pytest

import common.__main__
import retrieval.__main__
import submissions.__main__
import task1_asc.__main__
import task4_sed.__main__
from common.cli import run
from common.inference.tagging import EventOptions
from retrieval.search.index import Windows
from tests.support import finished_runs

PROGRAMS = {
    "common": common.__main__,
    "retrieval": retrieval.__main__,
    "submissions": submissions.__main__,
    "task1_asc": task1_asc.__main__,
    "task4_sed": task4_sed.__main__,
}
RUN, DATA, META = Path("run"), Path("data"), Path("META.yaml")
REPORT = MagicMock()
"""What a check of data returns."""


class Case(NamedTuple):
    """A command line, the function behind it, how that is called, what it returns, and what is printed then."""

    words: str
    target: str
    expected: Any
    result: Any = "ANSWER"
    out: str = ""
    err: str = ""


class SameFolder:
    """Equal to a run of the folder."""

    def __eq__(self, other: object) -> bool:
        return getattr(other, "folder", None) == RUN

    __hash__ = None


OPENED = SameFolder()
CASES = [
    Case("common synthesize retrieval --root data --clips 12 --seed 3", "common.synthetic.synthesize.synthesize",
         call("retrieval", DATA, 12, 3), {"clips": 1200, "queries": 5},
         err="Wrote made-up data to data: 1,200 clips, 5 queries.\n"),
    Case("common serve --model mn04.as --weights w.pt --index index --run run --port 7861",
         "common.inference.page.serve", call("mn04.as", Path("w.pt"), Path("index"), RUN, 7861)),
    Case("common embed data --model mn04.as --out e.npz --weights w.pt", "common.inference.embedding.embed_folder",
         call(DATA, "mn04.as", Path("e.npz"), Path("w.pt")), (1200, 768),
         err="Wrote 1,200 embeddings of 768 values to e.npz.\n"),
    Case("common export mn04 --out m.onnx --weights w.pt --seconds 2 --no_check", "common.inference.export.export_onnx",
         call("mn04", Path("m.onnx"), Path("w.pt"), 2.0, check=False), {"file": "m.onnx"}, out="file\nm.onnx\n"),
    Case("common export mn04 --out m.onnx", "common.inference.export.export_onnx",
         call("mn04", Path("m.onnx"), None, None, check=True), {"file": "m.onnx"}, out="file\nm.onnx\n"),
    Case("common complexity mn04 --precision int8 --set a=1 --set b=2 --json", "common.inference.complexity.describe",
         call("mn04", "int8", ("a=1", "b=2")), {"MACs": 5}, out='{\n  "MACs": 5\n}\n'),
    Case("common audioset pack --root data --audio clips --split eval --encode_rate 16000 --clips_per_file 7",
         "common.audioset.packing.pack_split", call(DATA, Path("clips"), "eval", 16000, 7),
         MagicMock(__str__=lambda _: "PACKED", not_found=[], num_broken=1, list_of_missing="missing.csv"),
         err="PACKED\nMissing and broken clips are listed in missing.csv.\n"),
    Case("common audioset pack --root data --audio clips --split eval", "common.audioset.packing.pack_split",
         call(DATA, Path("clips"), "eval", None, 50_000),
         MagicMock(__str__=lambda _: "PACKED", not_found=[], num_broken=0), err="PACKED\n"),
    Case("common audioset check --root data --decode 7", "common.audioset.packing.check_audioset", call(DATA, 7),
         ([{"split": "eval", "clips": 3}], []), out="data\nsplit\tclips\neval\t3\n",
         err="No problems found; missing clips are usually no longer on YouTube.\n"),
    Case("common audioset logits mn04.as data --root data --out l.hdf5 --seconds 5 --batch_size 4 --num_workers 3",
         "common.audioset.teachers.write_teacher_logits",
         call(("mn04.as", "data"), DATA, Path("l.hdf5"),
              ("balanced_train_segments_mp3*.hdf", "unbalanced_train_segments_mp3*.hdf"), 5.0, 4, 3),
         1200, err="Wrote the logits of 1,200 clips to l.hdf5.\n"),
    Case("common audioset import_logits --array a.npy --index i.pkl --out l.hdf5",
         "common.audioset.teachers.import_published_logits", call(Path("a.npy"), Path("i.pkl"), Path("l.hdf5")),
         1200, err="Wrote the logits of 1,200 clips to l.hdf5.\n"),
    Case("submissions template task1_2024 --out META.yaml", "submissions.participant.write_template",
         call("task1_2024", META), out="META.yaml\n"),
    Case("submissions pack data --rules task1_2024 --evaluation_set e.csv --run_code", "submissions.package.pack",
         call(DATA, "RULES", Path("e.csv"), True), out="ANSWER\n"),
    Case("submissions pack data", "submissions.package.pack", call(DATA, None, None, False), out="ANSWER\n"),
    Case("task1_asc data download --root data --evaluation 2025 --record 7 --delete_archives",
         "task1_asc.data.download.download_data", call(DATA, 2025, 7, True), err="The data are in ANSWER.\n"),
    Case("task1_asc data check --root data --evaluation 2025 --json", "task1_asc.data.check.check_data",
         call(DATA, 2025), REPORT),
    Case("task1_asc predict run --root data --year 2025 --precision int8", "task1_asc.evaluate.predict",
         call(OPENED, DATA, 2025, "int8"), out="ANSWER\n"),
    Case("task1_asc package run --label L --year 2025 --seed 3", "task1_asc.submission.package_2025.package",
         call((RUN,), "L", seed=3), out="ANSWER\n"),
    Case("task1_asc package run --label L --meta META.yaml --seed 3", "task1_asc.submission.package_2024.package",
         call((RUN,), "L", META, seed=3), out="ANSWER\n"),
    Case("task1_asc report run --out o.html --precision int8", "task1_asc.report.write_task1_report",
         call((RUN,), Path("o.html"), "int8"), err="Wrote ANSWER.\n"),
    Case("task1_asc export run --out data --json", "task1_asc.export.export_run", call(OPENED, DATA), [{"a": 1}],
         out='[\n  {\n    "a": 1\n  }\n]\n'),
    Case("task1_asc evaluate --weights META.yaml --model mn04 --root data --json",
         "task1_asc.evaluate.score_weights", call("mn04", META, DATA), {"made_up": True, "accuracy": 0.5},
         out='{\n  "made_up": true,\n  "accuracy": 0.5\n}\n'),
    Case("task1_asc sounds data download --root data --sets bsd2k --record 7 --delete_archives",
         "task1_asc.broad_sounds.check.download", call(DATA, "bsd2k", 7, True), err="The data are in ANSWER.\n"),
    Case("task1_asc sounds data check --root data --commercial_only --json", "task1_asc.broad_sounds.check.check_data",
         call(DATA, True), REPORT),
    Case("task1_asc sounds predict run --root data", "task1_asc.broad_sounds.evaluate.predict", call([OPENED], DATA),
         out="ANSWER\n"),
    Case("task1_asc sounds package run --label L --meta META.yaml", "task1_asc.broad_sounds.submission.package",
         call((RUN,), "L", META), out="ANSWER\n"),
    Case("task1_asc sounds report run --out o.html", "task1_asc.broad_sounds.report.write_sound_report",
         call((RUN,), Path("o.html")), err="Wrote ANSWER.\n"),
    Case("task4_sed data download --root data --hop 1 --delete_archives --allow_missing",
         "task4_sed.data.maestro.download_maestro", call(DATA, 1.0, True, True), {"maestro_train": 1200},
         err="1,200 windows of maestro_train are in data.\nHOW\n"),
    Case("task4_sed data cut --source source --root data --hop 1 --allow_missing", "task4_sed.data.maestro.prepare",
         call(Path("source"), DATA, 1.0, allow_missing=True), {"maestro_train": 1200},
         err="1,200 windows of maestro_train are in data.\n"),
    Case("task4_sed predict run --root data", "task4_sed.systems.predict", call(OPENED, DATA), out="ANSWER\n"),
    Case("task4_sed package run --label L --meta META.yaml --reference ref", "task4_sed.submission.package",
         call((RUN,), "L", META, Path("ref")), out="ANSWER\n"),
    Case("task4_sed report run --out o.html", "task4_sed.reports.report.write_task4_report",
         call((RUN,), Path("o.html")), err="Wrote ANSWER.\n"),
    Case("retrieval data download --root data --evaluation --delete_archives",
         "retrieval.data.download.download_data", call(DATA, True, True), err="The data are in ANSWER.\n"),
    Case("retrieval data check --root data --exclude a.txt --exclude b.txt --json", "retrieval.data.check.check_data",
         call(DATA, (Path("a.txt"), Path("b.txt"))), REPORT),
    Case("retrieval report run --out o.html", "retrieval.report.write_retrieval_report",
         call((RUN,), Path("o.html")), out="ANSWER\n"),
    Case("retrieval predict run --root data", "retrieval.submission.predict", call(OPENED, DATA),
         err="Wrote ANSWER.\n"),
    Case("retrieval package run --label L --meta META.yaml --year 2025", "retrieval.submission.package",
         call((RUN,), "L", META, 2025), out="ANSWER\n"),
    Case("retrieval moments data download --root data --part evaluation --record 7",
         "retrieval.moments.download.download_data", call(DATA, "evaluation", 7), err="The data are in ANSWER.\n"),
    Case("retrieval moments data check --root data --json", "retrieval.moments.annotations.check_annotations",
         call(DATA), REPORT),
    Case("retrieval moments predict run --root data --annotations q.jsonl", "retrieval.moments.recipe.predict",
         call(OPENED, DATA, "q.jsonl"), err="Wrote ANSWER.\n"),
    Case("retrieval moments package run --label L --meta META.yaml", "retrieval.moments.submission.package",
         call((RUN,), "L", META), out="ANSWER\n"),
    Case("retrieval moments report run --out o.html", "retrieval.moments.report.write_moment_report",
         call((RUN,), Path("o.html")), out="ANSWER\n"),
]  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with data, and a run to be written in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("w.pt", "META.yaml", "data/retrieval_captions.csv", "data/q.jsonl", "data/clip.wav", "e.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    for target, value in {
        "submissions.rules.load_rules": lambda name: "RULES",
        "task1_asc.data.tau2022.evaluation_folder": lambda root, year: root,
        "task4_sed.data.maestro.HOW_TO_GET_DESED": "HOW",
    }.items():
        monkeypatch.setattr(target, value)


def write_run(program: str, group: str) -> None:
    kind = {"sounds": "sounds", "moments": "moments"}.get(group, program.removesuffix("_asc").removesuffix("_sed"))
    if kind == "task1":
        finished_runs.write_task1_run(RUN, 25, 0)
    elif kind in ("task4", "retrieval", "moments", "sounds"):
        getattr(finished_runs, f"write_{kind}_run")(RUN)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_a_verb_hands_on_what_it_is_given_and_prints_the_answer(case, project, monkeypatch, capsys):
    program, *words = case.words.split()
    write_run(program, words[0])
    capsys.readouterr()
    behind = MagicMock(return_value=case.result)
    monkeypatch.setattr(case.target, behind)
    assert run(f"python -m {program}", PROGRAMS[program].VERBS, words) == 0
    assert behind.call_args_list == [case.expected]
    if case.result is REPORT:
        assert REPORT.show.call_args == call(True)
    assert capsys.readouterr() == (case.out, case.err)


@pytest.mark.parametrize(
    ("words", "target", "expected"),
    [
        ("task1_asc compare run data --precision int8", "task1_asc.compare.compare_systems", ((RUN, DATA), "int8")),
        ("task1_asc sounds compare run data --ensemble", "task1_asc.broad_sounds.compare.compare_systems",
         ((RUN, DATA), True)),
        ("task4_sed compare run data --ground_truth e.csv --durations w.pt",
         "task4_sed.reports.compare.compare_systems", ((RUN, DATA), Path("e.csv"), Path("w.pt"))),
        ("retrieval compare run data", "retrieval.compare.compare_systems", ((RUN, DATA),)),
        ("retrieval moments compare run data", "retrieval.moments.compare.compare_systems", ((RUN, DATA),)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [True, False])
def test_systems_are_compared_as_asked(words, target, expected, as_json, project, monkeypatch):
    program, *words = words.split()
    RUN.mkdir()
    compare, printed = MagicMock(return_value="ROWS"), MagicMock()
    monkeypatch.setattr(target, compare)
    monkeypatch.setattr("common.reports.compare.print_comparison", printed)
    assert run(f"python -m {program}", PROGRAMS[program].VERBS, [*words, *(["--json"] if as_json else [])]) == 0
    assert compare.call_args_list == [call(*expected)]
    assert printed.call_args_list == [call("ROWS", as_json)]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--threshold 0.2 --median 3 --window 4 --hop 2", EventOptions(0.2, 3, 4.0, 2.0)),
        ("", EventOptions(None, None, 5.0, 1.0)),
    ],
)
@pytest.mark.parametrize("failed", [[], ["b.wav"]])
def test_tags_are_printed_and_unreadable_files_change_the_exit_code(
    words, options, failed, project, monkeypatch, capsys
):
    rows = [{"filename": "a.wav", "tags": [{"label": "rain", "score": 0.5}, {"label": "wind", "score": 0.25}]}]
    behind = MagicMock(return_value=(rows, failed))
    monkeypatch.setattr("common.inference.tagging.tag_files", behind)
    given = ["tag", "data", "--model", "mn04", "--weights", "w.pt", "--top", "2", "--events", "e.tsv", *words.split()]
    assert run("common", common.__main__.VERBS, given) == (2 if failed else 0)
    assert behind.call_args_list == [call([DATA], "mn04", Path("w.pt"), 2, Path("e.tsv"), options)]
    assert capsys.readouterr().out == "filename\tlabel\tscore\na.wav\train\t0.5\na.wav\twind\t0.25\n"
    assert run("common", common.__main__.VERBS, [*given, "--json"]) == (2 if failed else 0)
    assert json.loads(capsys.readouterr().out) == rows


@pytest.mark.parametrize(
    ("interval", "told"),
    [
        ((0.4, 0.6), "accuracy 50.0 [40.0, 60.0], 95 % by bootstrap over clips; standard deviation over folds 1.2\n"),
        (None, "accuracy 50.0; standard deviation over folds 1.2\n"),
    ],
)
def test_a_probe_prints_each_fold_and_the_mean(interval, told, project, monkeypatch, capsys):
    result = {"metric": "accuracy", "interval": interval, "folds": {"1": 0.45, "2": 0.55}, "score": 0.5,
              "standard_deviation": 0.012}  # fmt: skip
    behind = MagicMock(return_value=result)
    monkeypatch.setattr("common.inference.probe.probe", behind)
    words = ["probe", "data", "--model", "mn04", "--weights", "w.pt", "--folds", "1", "2", "--grid", "fast",
             "--first_best", "--precision", "bf16"]  # fmt: skip
    assert run("common", common.__main__.VERBS, words) == 0
    assert behind.call_args == call(DATA, "mn04", Path("w.pt"), "fast", ("1", "2"), True, "bf16")
    assert capsys.readouterr().out == f"accuracy, per cent\nfold\taccuracy\n1\t45.0\n2\t55.0\n{told}"
    assert run("common", common.__main__.VERBS, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"] == result["folds"]


@pytest.mark.parametrize(
    ("words", "cut", "half", "skip", "told"),
    [
        ("--windows 4", Windows(4.0, 2.0), False, False, "index holds 1 file."),
        ("--windows 4 --hop 1 --half --skip_unreadable", Windows(4.0, 1.0), True, True, "index holds 5 files."),
        ("", None, False, False, "index holds 5 files."),
    ],
)
def test_an_index_is_built_as_asked(words, cut, half, skip, told, project, monkeypatch, capsys):
    searcher = MagicMock(understands=("text", "example"))
    load, build = MagicMock(return_value=searcher), MagicMock(return_value=1 if "1 file." in told else 5)
    monkeypatch.setattr("retrieval.search.searcher.load_audio_searcher", load)
    monkeypatch.setattr("retrieval.search.index.build_index", build)
    given = ["index", "data", "--model", "mn04", "--weights", "w.pt", "--out", "index", *words.split()]
    assert run("retrieval", retrieval.__main__.VERBS, given) == 0
    assert load.call_args == call("mn04", Path("w.pt"))
    assert build.call_args == call(searcher, None, DATA, Path("index"), skip, cut, half)
    assert capsys.readouterr().err.endswith(f"{told} Search it by text or example.\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--out index", "Give either --run RUN, or --model NAME to search without training."),
        ("--out index --model mn04 --run run", "Give either --run RUN, or --model NAME to search without training."),
        ("--out index --run run --weights w.pt", "--weights belongs to --model; a run has its own weights."),
        ("--out index --model mn04 --hop 1", "--hop needs --windows SECONDS."),
    ],
)
def test_options_of_an_index_that_do_not_go_together_are_refused(words, told, project, capsys):
    assert run("retrieval", retrieval.__main__.VERBS, ["index", "data", *words.split()]) == 2
    assert capsys.readouterr().err == f"{told}\n"


@pytest.mark.parametrize(
    ("year", "place", "subsets"),
    [(2024, "package_2024.check_before_training", [5, 10, 25, 50, 100]), (2025, "package_2025.place_of_package", [25])],
)
def test_a_system_is_trained_reported_and_packaged(year, place, subsets, project, monkeypatch, capsys):
    write_run("task1_asc", "")
    recipe, looked, reported, packaged = (MagicMock(return_value="ANSWER") for _ in range(4))
    recipe.sweep.return_value = (RUN, [])
    monkeypatch.setattr("task1_asc.__main__.load_recipe", lambda: recipe)
    monkeypatch.setattr(f"task1_asc.submission.{place}", looked)
    monkeypatch.setattr("task1_asc.report.write_task1_report", reported)
    monkeypatch.setattr(f"task1_asc.submission.package_{year}.package", packaged)
    monkeypatch.chdir(Path(task1_asc.__main__.__file__).parents[1])
    monkeypatch.setattr("task1_asc.__main__.run_folders", lambda runs: runs)
    words = ["system", task1_asc.__main__.SMALL, "--label", "L", "--meta", "META.yaml", "--year", year, "--jobs", 2,
             "--subset", 25, "--seed", 4]  # fmt: skip
    assert run("task1_asc", task1_asc.__main__.VERBS, list(map(str, words))) == 0
    assert looked.call_args == (call("L", META) if year == 2024 else call("L"))
    settings, over, executor = recipe.sweep.call_args.args
    assert (settings.seed, over, executor.jobs) == (4, {"subset": subsets}, 2)
    assert reported.call_args == call((RUN,), None, "float16")
    assert packaged.call_args == (call((RUN,), "L", META, seed=4) if year == 2024 else call((RUN,), "L", seed=4))
    assert capsys.readouterr() == ("ANSWER\n", "Wrote ANSWER.\n")


@pytest.mark.parametrize(
    ("words", "first", "last"),
    [
        ("task1_asc evaluate run", "Made-up data: test split, subset 25 %, seed 0", "Published: "),
        ("task1_asc sounds evaluate run", "Per cent, means over folds (MADE-UP DATA)", ""),
        ("task4_sed evaluate run", "Made-up data: teacher, post-processed, seed 0; per cent: ", "Intervals: "),
        ("retrieval evaluate run",
         "Made-up data, per cent, 95 % over clips, epoch of highest validation MRR", "a note"),
        ("retrieval moments evaluate run",
         "Made-up data, percent with 95 % intervals, epoch of highest validation R1@0.7", ""),
    ],
)  # fmt: skip
def test_the_figures_of_a_run_are_printed_or_given_as_json(words, first, last, project, monkeypatch, capsys):
    program, *words = words.split()
    write_run(program, words[0])
    content = json.loads((RUN / "test" / "evaluation.json").read_text())
    if program == "retrieval" and "notes" in content["clips"]:
        content["clips"]["notes"] = ["a note"]
        (RUN / "test" / "evaluation.json").write_text(json.dumps(content))
    for module in ("task1_asc.data.tau2022.is_made_up_data", "common.data.files.is_made_up"):
        monkeypatch.setattr(module, lambda *_: True)
    verbs = PROGRAMS[program].VERBS
    assert run(f"python -m {program}", verbs, words) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].startswith(first)
    assert last in told.err
    assert run(f"python -m {program}", verbs, [*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert content.items() <= found.items() and set(found) - set(content) <= {"published"}


def test_the_largest_widths_are_counted_and_printed(project, monkeypatch, capsys):
    widths = [MagicMock(**{"row.return_value": {"width": number}}) for number in (32, 24)]
    find = MagicMock(return_value=widths)
    monkeypatch.setattr("task1_asc.networks.limits.largest_widths", find)
    monkeypatch.chdir(Path(task1_asc.__main__.__file__).parents[1])
    words = ["search_width", task1_asc.__main__.SMALL, "--count", "2"]
    assert run("task1_asc", task1_asc.__main__.VERBS, words) == 0
    assert find.call_args.args[1] == 2
    name = find.call_args.args[0].model.name
    assert capsys.readouterr().out == f"{name} within the limits, in float16\nwidth\n32\n24\n"
    assert run("task1_asc", task1_asc.__main__.VERBS, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"width": 32}, {"width": 24}]


def test_a_check_of_a_package_hands_on_its_options(project, monkeypatch, capsys):
    check = MagicMock(return_value=("PACKAGE", "RESULTS"))
    monkeypatch.setattr("submissions.package.check_package", check)
    shown = {"lines": ["one", "two"], "as_data": {"a": 1}, "passes": False}
    for name, value in shown.items():
        monkeypatch.setattr(f"submissions.report.{name}", lambda *_, value=value: value)
    words = ["check", "data", "--rules", "task1_2024", "--evaluation_set", "e.csv", "--run_code"]
    assert run("submissions", submissions.__main__.VERBS, words) == 1
    assert check.call_args == call(DATA, "RULES", Path("e.csv"), True)
    assert capsys.readouterr().out == "one\ntwo\n"
    monkeypatch.setattr("submissions.report.passes", lambda results: True)
    assert run("submissions", submissions.__main__.VERBS, ["check", "data", "--json"]) == 0
    assert check.call_args == call(DATA, None, None, False)
    assert json.loads(capsys.readouterr().out) == {"a": 1}

"""Files of a run that were damaged or edited are named in one sentence, whatever reads them."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from common.cli import run
from common.data.files import read_json, read_tsv
from common.errors import UserError
from common.reports.plots import read_curves
from common.runs.energy import read_energy
from common.runs.results_table import ResultsTable
from tests.support.toy_task import VERBS

CONFIG = "name: toy_seed{seed}\npoints: 20\nnoise: 0.1\nruns: runs\n"
DAMAGES = {
    "emptied": b"",
    "cut": b'{"error": 0.0',
    "a list": b"[]",
    "without names": b"{}",
    "random bytes": bytes(range(128, 256)),
    "nested deeply": b"[" * 100_000,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a sweep of two runs."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.yaml").write_text(CONFIG)
    with contextlib.chdir(folder):
        assert run("toy", VERBS, ["sweep", "toy.yaml", "--over", "seed=0,1"]) == 0
    return folder


@pytest.fixture
def runs(finished, tmp_path, monkeypatch) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("runs")


def call(*words: object) -> int:
    return run("toy", VERBS, [str(word) for word in words])


def damage(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "deleted":
        path.write_bytes(DAMAGES[kind])


@pytest.mark.parametrize("kind", [*DAMAGES, "a folder", "deleted"])
@pytest.mark.parametrize("name", ["test/evaluation.json", "test/stage.json"])
def test_a_report_names_the_damaged_file_of_a_run(runs, capfd, name, kind):
    damage(runs / "toy_seed0" / name, kind)
    assert call("report", runs / "toy_seed0") == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "toy_seed0" in told
    assert name in told or kind == "deleted"


@pytest.mark.parametrize("kind", [*DAMAGES, "a folder"])
def test_a_damaged_record_does_not_let_a_run_go_on(runs, capfd, kind):
    damage(runs / "toy_seed0" / "train" / "stage.json", kind)
    assert call("train", "--resume", runs / "toy_seed0") == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "train/stage.json" in told and "remove it" in told


@pytest.mark.parametrize("kind", [*DAMAGES, "a folder"])
def test_a_damaged_sweep_is_named(runs, capfd, kind):
    damage(runs / "toy" / "sweep.json", kind)
    assert call("sweep", "toy.yaml", "--over", "seed=0,1") == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "toy/sweep.json" in told and "call `sweep` again" in told


@pytest.mark.parametrize("kind", ["a folder"])
def test_a_damaged_table_of_results_is_named(runs, capfd, kind):
    damage(runs / "toy" / "results.csv", kind)
    assert call("sweep", "toy.yaml", "--over", "seed=0,1") == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "toy/results.csv" in told


def test_figures_that_were_edited_are_refused(runs, capfd):
    path = runs / "toy_seed0" / "test" / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "error": 0.0}))
    assert call("report", runs / "toy_seed0") == 2
    assert "evaluation.json was changed after its stage wrote it" in capfd.readouterr().err


def test_settings_that_were_edited_are_refused_with_what_differs(runs, capfd):
    path = runs / "toy_seed0" / "settings.yaml"
    path.write_text(path.read_text().replace("noise: 0.1", "noise: 0.2"))
    assert call("report", runs / "toy_seed0") == 2
    told = capfd.readouterr().err
    assert "was changed after the stage test ran: noise: 0.1 -> 0.2" in told and "--redo test" in told
    path.write_text(path.read_text().replace("noise: 0.2", "noise: 0.1"))
    assert call("report", runs / "toy_seed0") == 0


def test_other_files_are_named_too(tmp_path):
    for kind in ("a list", "cut", "without names"):
        (tmp_path / "energy.json").write_bytes(DAMAGES[kind])
        with pytest.raises(UserError, match=r"energy\.json is damaged"):
            read_energy(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n2,words\n")
    with pytest.raises(UserError, match=r"metrics\.csv:3 is damaged: loss is 'words'"):
        read_curves(tmp_path / "metrics.csv")
    (tmp_path / "x.tsv").mkdir()
    with pytest.raises(UserError, match=r"x\.tsv is a folder, not a table"):
        read_tsv(tmp_path / "x.tsv", ["filename"])
    (tmp_path / "results.csv").write_bytes(b"seed,error\n\xff,1\n")
    with pytest.raises(UserError, match=r"results\.csv is damaged"):
        ResultsTable(tmp_path / "results.csv", ["seed"])


def test_the_reader_says_line_kind_and_remedy(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text('{\n"precision": 8,\n')
    with pytest.raises(UserError, match=r"facts\.json is damaged in line 3 .*; train again\."):
        read_json(path, "train again")
    path.write_text('{"precision": 8}')
    with pytest.raises(UserError, match="its precision is 8; train again"):
        read_json(path, "train again", {"precision": str})
    with pytest.raises(UserError, match="it has no year; train again"):
        read_json(path, "train again", {"year": int})
    assert read_json(path, "train again", {"precision": int}) == {"precision": 8}

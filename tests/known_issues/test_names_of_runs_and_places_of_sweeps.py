"""Names that are no good names of folders are refused, and a sweep finds its runs from any folder."""

from pathlib import Path

import pytest

from common.cli import run
from common.errors import UserError
from common.runs.folder import run_folders
from common.runs.sweep import make_cells
from tests.support.toy_task import VERBS, ToySettings


@pytest.mark.parametrize("name", ["-x", "..", ".hidden", " x", "a/b", "a\\b", "a\nb", "a\x1b[31m", "{sead}", "a{", "}"])
def test_a_name_that_is_no_name_of_a_folder_is_refused(name, tmp_path, capfd):
    config = tmp_path / "toy.yaml"
    config.write_text("name: good\n")
    assert run("toy", VERBS, ["train", str(config), f"--name={name}", "--runs", str(tmp_path)]) == 2
    told = capfd.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and told.startswith("--name")
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def test_braces_in_a_name_stand_for_settings():
    assert ToySettings(name="toy_{points}_seed{seed}", seed=3).folder == Path("runs/toy/toy_20_seed3")


def test_values_with_braces_and_line_ends_make_no_names_of_their_own():
    names = [cell.settings.folder.name for cell in make_cells(ToySettings(name="toy"), {"runs": ["a{b}", "a\nb"]})]
    assert names == ["toy_runsa-b-", "toy_runsa b"]


def test_a_sweep_finds_its_runs_from_any_folder(tmp_path, monkeypatch, capfd):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("toy.yaml").write_text("name: toy_seed{seed}\nruns: runs\n")
    assert run("toy", VERBS, ["sweep", "toy.yaml", "--over", "seed=0,1"]) == 0
    monkeypatch.chdir(tmp_path)
    found = run_folders([Path("here/runs/toy")])
    assert [folder.resolve() for folder in found] == [tmp_path / "here" / "runs" / f"toy_seed{n}" for n in (0, 1)]
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(run_folders([tmp_path / "there" / "runs" / "toy"])) == 2


def test_a_sweep_of_an_earlier_version_is_read_from_its_working_directory(tmp_path, monkeypatch):
    run_folder = tmp_path / "runs" / "toy_seed0"
    run_folder.mkdir(parents=True)
    (run_folder / "settings.yaml").write_text("name: toy_seed0\n")
    sweep = tmp_path / "runs" / "toy"
    sweep.mkdir()
    (sweep / "sweep.json").write_text('{"over": ["seed"], "settings": {}, "runs": {"seed=0": "runs/toy_seed0"}}')
    monkeypatch.chdir(tmp_path)
    assert run_folders([Path("runs/toy")]) == [Path("runs/toy_seed0")]
    monkeypatch.chdir(run_folder)
    with pytest.raises(UserError, match="has no runs yet"):
        run_folders([sweep])

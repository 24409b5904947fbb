"""The commands of Task 1 from made-up data to figures; called in this process, where everything is imported already."""

import json
import re
from pathlib import Path

import pytest
import soundfile

from common.cli import run
from common.runs.sweep import sweep_name
from task1_asc import __main__ as main
from task1_asc.__main__ import VERBS
from task1_asc.data.tau2022 import DEVELOPMENT, EVALUATION
from tests.support.places import ROOT

SMALL = "task1_asc/configs/small.yaml"
QUICK = (
    "--loader.batch_size 32 --front_end.n_mels 32 --front_end.n_fft 1024 --front_end.win_length 1024 "
    "--front_end.hop_length 2000 --model.base_channels 8 --trainer.epochs 1 --trainer.accelerator cpu "
    "--trainer.measure_energy false"
)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def call(words):
    return run("python -m task1_asc", VERBS, words.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_task1):
    """Folder of a sweep's runs over two seeds, made by the command."""
    folder = tmp_path_factory.mktemp("runs")
    words = f"sweep {SMALL} {QUICK} --data.root {tiny_task1} --runs {folder} --subset 5 --over seed=0,1"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert call(words) == 0
    return folder


def test_a_sweep_leaves_a_table_and_a_run_for_each_cell(runs):
    lines = (runs / "small" / "results.csv").read_text().splitlines()
    assert lines[0].startswith("seed,macro_accuracy")
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1"]
    assert {"small_subset5_seed0", "small_subset5_seed1"} <= {path.name for path in runs.iterdir()}


def test_a_sweep_that_is_done_is_not_done_again(runs, tiny_task1, capsys):
    checkpoint = runs / "small_subset5_seed0" / "train" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    words = f"sweep {SMALL} {QUICK} --data.root {tiny_task1} --runs {runs} --subset 5 --over seed=0,1"
    assert call(words) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().err


def test_train_says_where_the_run_is_and_keeps_what_is_done(runs, tiny_task1, capsys):
    words = f"train {SMALL} {QUICK} --data.root {tiny_task1} --runs {runs} --subset 5 --seed 0"
    assert call(words) == 0
    captured = capsys.readouterr()
    assert "train: kept" in captured.err
    assert "Made-up data" in captured.out


def test_a_run_goes_on_by_its_folder(runs, capsys):
    assert call(f"train --resume {runs}/small_subset5_seed0") == 0
    assert "test: kept" in capsys.readouterr().err


def test_evaluate_shows_our_figures_beside_the_published_ones(runs, capsys):
    assert call(f"evaluate {runs}/small_subset5_seed0") == 0
    shown = capsys.readouterr().out
    assert "Made-up data" in shown
    assert "42.4 ± 0.4" in shown
    assert re.search(r"airport.*34\.8", shown)
    assert re.search(r"s6.*33\.6", shown)


def test_evaluate_as_json_gives_figures_with_limits(runs, capsys):
    assert call(f"evaluate {runs}/small_subset5_seed0 --json") == 0
    figures = json.loads(capsys.readouterr().out)
    macro = figures["float32"]["macro_accuracy"]
    assert 0 <= macro["low"] <= macro["value"] <= macro["high"] <= 1
    assert figures["made_up"] is True
    assert figures["published"]["macro_accuracy"]["5"] == 42.40


def test_predict_writes_the_table_of_the_evaluation_set(runs, tiny_task1, capsys):
    assert call(f"predict {runs}/small_subset5_seed0 --root {tiny_task1}") == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert path.read_text().startswith("filename\tscene_label\tairport\t")
    assert json.loads(path.with_name("predictions.json").read_text())["precision"] == "float16"


def test_the_data_can_be_checked_and_packed(tiny_task1, capsys):
    assert call(f"data check --root {tiny_task1}") == 0
    assert call(f"data pack --root {tiny_task1}") == 0
    assert "clips" in capsys.readouterr().err


def test_a_missing_clip_makes_the_check_fail_by_name(tmp_path, tiny_task1, capsys):
    import shutil

    for name in (DEVELOPMENT, "split_setup", EVALUATION.format(year=2024)):
        shutil.copytree(tiny_task1 / name, tmp_path / name)
    clip = next((tmp_path / DEVELOPMENT / "audio").glob("*.wav"))
    clip.unlink()
    assert call(f"data check --root {tmp_path}") == 1
    assert clip.name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("trian", "train"),
        (f"train {SMALL} --optim.weigth_decay 0.1", "weight_decay"),
        (f"train {SMALL} --subset 7", "subset"),
        (f"train {SMALL} --optim.warmup_steps 10", "small.yaml:30: optim: give warmup_steps or warmup_share, and null"),
        ("train task1_asc/configs/smal.yaml", "small.yaml"),
        (f"train {SMALL} --data.root TREE --model.name cp_mobil", "No model named cp_mobil. Near it: cp_mobile"),
        (
            f"train {SMALL} --data.root TREE --augment.impulse_responses.folder EMPTY",
            "responses.folder: EMPTY holds no audio",
        ),
        (f"train {SMALL} --data.root /nowhere", "has no meta.csv"),
        ("evaluate /nowhere", "is no run"),
        ("predict /nowhere --root /nowhere", "is no run"),
        (f"sweep {SMALL}", "--over"),
        (f"sweep {SMALL} --over sede=1,2", "seed"),
        ("data check --root /nowhere", "has no meta.csv"),
    ],
)
def test_a_mistake_in_a_call_is_told_in_a_sentence_and_exits_with_2(words, complaint, tmp_path, tiny_task1, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = words.replace("TREE", str(tiny_task1)).replace("EMPTY", str(empty))
    if words.startswith(("train", "sweep")):
        words += f" --runs {tmp_path}"
    assert call(words) == 2
    captured = capsys.readouterr()
    assert complaint.replace("EMPTY", str(empty)) in captured.err
    assert list(tmp_path.iterdir()) == [empty]  # no run has begun
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_clip_that_is_not_as_it_should_be_is_named_before_anything_is_trained(tmp_path, tiny_task1, capsys):
    import shutil

    for name in (DEVELOPMENT, "split_setup"):
        shutil.copytree(tiny_task1 / name, tmp_path / name)
    listed = (tmp_path / "split_setup" / "split5.csv").read_text().splitlines()[1].split("\t")[0]
    path = tmp_path / DEVELOPMENT / listed
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples, 48000, subtype="PCM_24")
    words = f"train {SMALL} {QUICK} --data.root {tmp_path} --runs {tmp_path / 'runs'} --subset 5"
    assert call(words) == 2
    assert Path(listed).name in capsys.readouterr().err


def test_the_fast_check_leaves_nothing_behind(tiny_task1, tmp_path, capsys):
    assert call(f"train --fast_check {QUICK} --data.root {tiny_task1} --runs {tmp_path} --subset 5") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_sweeps_folder_is_the_name_without_what_differs():
    assert sweep_name("small_subset{subset}_seed{seed}") == "small"
    assert sweep_name("low_lr") == "low_lr"
    assert sweep_name("{subset}") == "sweep"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--label Somebody --meta META.yaml", "--label Somebody is not a label"),
        ("--label Lastname_INST_task1_1 --meta META.yaml", "META.yaml does not exist"),
        ("--label Lastname_INST_task1_1", "needs --meta META.yaml"),
        ("--label Somebody --year 2025", "--label Somebody is not a label"),
    ],
)
def test_system_refuses_before_it_trains_what_package_would_refuse_after(options, told, tmp_path, tiny_task1, capsys):
    options = options.replace("META.yaml", str(tmp_path / "META.yaml"))
    words = f"system {SMALL} {QUICK} --data.root {tiny_task1} --runs {tmp_path / 'runs'} {options}"
    assert call(words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("year", [2024, 2025])
def test_system_trains_the_subsets_of_the_year_then_reports_and_packages_them(year, tmp_path, monkeypatch):
    done = []

    class Recipe:
        def sweep(self, settings, over, executor):
            done.append(("sweep", over, executor.jobs))
            return tmp_path / "sweep", []

    def note(name):
        return lambda folders, **options: done.append((name, folders, options))

    monkeypatch.setattr(main, "load_recipe", Recipe)
    monkeypatch.setattr(main, "report", note("report"))
    monkeypatch.setattr(main, "package", note("package"))
    meta = "submissions/templates/demo/task1_2024.yaml" if year == 2024 else None
    words = f"system {SMALL} --subset 25 --seed 3 --jobs 2 --label Test_KIT_task1_1 --year {year} --runs {tmp_path}"
    assert call(words + (f" --meta {meta}" if meta else "")) == 0
    sweep, report, package = done
    assert sweep == ("sweep", {"subset": [5, 10, 25, 50, 100] if year == 2024 else [25]}, 2)
    assert report == ("report", (tmp_path / "sweep",), {"precision": "float16"})
    expected = {"label": "Test_KIT_task1_1", "meta": meta and Path(meta), "year": year, "seed": 3}
    assert package == ("package", (tmp_path / "sweep",), expected)


def test_package_asks_for_the_seed_of_either_year(runs, monkeypatch):
    from task1_asc.submission import package_2024, package_2025

    asked = []
    for module in (package_2024, package_2025):
        monkeypatch.setattr(module, "package", lambda *_, seed: asked.append(seed) or "there")
    for year in (2024, 2025):
        assert call(f"package {runs}/small --label Test_KIT_task1_1 --year {year} --seed 1") == 0
    assert asked == [1, 1]

"""Stages: what is kept, gone on with, refused and redone; what a kill leaves behind."""

import errno
import os
import shutil
from functools import partial

import pytest

from common import output
from common.errors import UserError
from common.output import say
from common.runs import folder as run_folder
from common.runs import stages
from common.runs.folder import is_main_process
from common.runs.run import Run, read_record
from common.runs.stages import Stage, do_two_steps, run_stage, run_stages
from common.settings import Field, Settings

PLAN = "DCASE_KIT_STAGES"  # environment variable that tells processes which stages are to do


class Optim(Settings):
    """How it learns."""

    lr: float = Field(0.1, gt=0)
    steps: int = 3


class Recipe(Settings):
    """A recipe of three stages."""

    data: str = "made up"
    optim: Optim = Optim()
    report: str = "plain"


class Diary:
    """Stages that note when they worked, and can be told to break."""

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.break_in = ""

    def stages(self) -> list[Stage]:
        return [
            Stage("pack", self.pack, uses=("data",)),
            Stage("train", self.train, uses=("data", "optim")),
            Stage("report", self.report, uses=("report",)),
        ]

    def pack(self, run, settings) -> None:
        self.note("pack", run)

    def train(self, run, settings) -> None:
        assert run.files("pack/*.txt")
        self.note("train", run)

    def report(self, run, settings) -> None:
        self.note("report", run)

    def note(self, name, run) -> None:
        self.worked.append(name)
        with (run.folder / name / "work.txt").open("a") as file:
            file.write("half ")
            if self.break_in == name:
                raise KeyboardInterrupt
            file.write("done ")

    def go(self, folder, settings=None, redo=()) -> list[str]:
        """Run the stages; gives those that worked."""
        self.worked = []
        run_stages(Run(folder, settings or Recipe()), self.stages(), redo)
        return self.worked


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture(autouse=True)
def _single_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_stages_run_in_order_and_are_kept_by_a_second_call(tmp_path, diary, capsys):
    assert diary.go(tmp_path / "run") == ["pack", "train", "report"]
    assert diary.go(tmp_path / "run") == []
    assert capsys.readouterr().err.count("kept, its settings are the same") == 3


def test_a_record_tells_settings_code_time_energy_and_inputs(tmp_path):
    def work(run, settings) -> None:
        (run.folder / "train" / "energy.json").write_text('{"energy_kwh": 0.5, "hardware": "cpu"}')

    folder = tmp_path / "run"
    run_stages(Run(folder, Recipe()), [Stage("train", work, uses=("data", "optim.lr"))])
    record = read_record(folder, "train")
    assert record["settings"] == {"data": "made up", "optim.lr": 0.1}
    assert record["energy_kwh"] == 0.5
    assert record["seconds"] >= 0
    assert len(record["inputs"]) == 64
    assert "commit" in record["code"] or "digest" in record["code"]
    assert record["started"].endswith("+00:00")


def test_the_record_is_written_after_everything_else(tmp_path):
    def work(run, settings) -> None:
        assert not (run.folder / "train" / "stage.json").exists()

    run_stages(Run(tmp_path / "run", Recipe()), [Stage("train", work, uses=())])
    assert (tmp_path / "run" / "train" / "stage.json").exists()


def test_processes_that_a_stage_starts_learn_what_is_to_do_and_later_runs_do_not(tmp_path):
    told = []

    def work(run, settings) -> None:
        told.append(os.environ[PLAN])

    stages = [Stage(name, work, uses=()) for name in ("pack", "train")]
    run_stages(Run(tmp_path / "run", Recipe()), stages)
    run_stages(Run(tmp_path / "run", Recipe()), stages, redo=("train",))
    run_stage(Run(tmp_path / "run", Recipe()), stages[0], stages, "redo")
    assert told == ["pack,train", "pack,train", "train", "pack"]
    assert PLAN not in os.environ


def test_the_settings_of_the_run_are_there_from_the_start(tmp_path, diary):
    diary.break_in = "pack"
    with pytest.raises(KeyboardInterrupt):
        diary.go(tmp_path / "run")
    assert "lr: 0.1" in (tmp_path / "run" / "settings.yaml").read_text()


def test_other_settings_are_refused_with_what_changed_and_the_two_ways_out(tmp_path, diary):
    diary.go(tmp_path / "run")
    with pytest.raises(UserError) as error:
        diary.go(tmp_path / "run", Recipe(optim=Optim(lr=0.2, steps=4)))
    assert str(error.value) == (
        f"{tmp_path / 'run'} was made with other settings: optim.lr: 0.1 -> 0.2, optim.steps: 3 -> 4. "
        "Choose another name (--name X), or run the stage again (--redo train)."
    )
    assert diary.worked == []
    assert "lr: 0.1" in (tmp_path / "run" / "settings.yaml").read_text()


def test_settings_of_one_stage_do_not_touch_the_others(tmp_path, diary):
    diary.go(tmp_path / "run")
    assert diary.go(tmp_path / "run", Recipe(report="long"), redo=["report"]) == ["report"]


def test_a_stage_is_redone_from_nothing_with_those_after_it(tmp_path, diary):
    diary.go(tmp_path / "run")
    assert diary.go(tmp_path / "run", Recipe(optim=Optim(lr=0.2)), redo=["train"]) == ["train", "report"]
    assert (tmp_path / "run" / "train" / "work.txt").read_text() == "half done "
    assert read_record(tmp_path / "run", "train")["settings"]["optim"]["lr"] == 0.2


def test_a_later_stage_that_does_not_need_a_redone_one_is_kept(tmp_path, diary):
    pack, train, report = diary.stages()
    recipe = [pack, train, Stage("report", report.work, uses=("report",), needs=("pack",))]
    run_stages(Run(tmp_path / "run", Recipe()), recipe)
    diary.worked = []
    run_stages(Run(tmp_path / "run", Recipe()), recipe, redo=["train"])
    assert diary.worked == ["train"]


def test_a_redo_that_was_interrupted_goes_on_and_does_not_bring_old_records_back(tmp_path, diary):
    diary.go(tmp_path / "run")
    diary.break_in = "train"
    with pytest.raises(KeyboardInterrupt):
        diary.go(tmp_path / "run", redo=["pack"])
    diary.break_in = ""
    assert diary.go(tmp_path / "run") == ["train", "report"]
    assert (tmp_path / "run" / "report" / "work.txt").read_text() == "half done "


def test_an_interrupted_stage_goes_on_with_what_it_left(tmp_path, diary, capsys):
    diary.break_in = "train"
    with pytest.raises(KeyboardInterrupt):
        diary.go(tmp_path / "run")
    assert f"train is not finished; resume with --resume {tmp_path / 'run'}." in capsys.readouterr().err
    diary.break_in = ""
    assert diary.go(tmp_path / "run") == ["train", "report"]
    assert (tmp_path / "run" / "train" / "work.txt").read_text() == "half half done "
    assert read_record(tmp_path / "run", "train")["interrupted_before"] is True


def test_what_a_kill_left_of_a_file_is_removed_where_the_stage_resumes(tmp_path):
    def leave(run, settings, fast_check=False):
        scores = run.folder / "only" / "scores"
        if not scores.exists():
            scores.mkdir(parents=True)
            (scores / ".clip.tsv.ab_12xyz.part").touch()  # of `atomic_path`
            (scores / ".logits.h5.part").touch()  # of outputs that resume
            raise KeyboardInterrupt
        assert [path.name for path in scores.iterdir()] == [".logits.h5.part"]

    with pytest.raises(KeyboardInterrupt):
        run_stages(Run(tmp_path / "toy", Recipe()), [Stage("only", leave, uses=())])
    run_stages(Run(tmp_path / "toy", Recipe()), [Stage("only", leave, uses=())])


def test_an_interrupted_stage_does_not_go_on_with_other_settings(tmp_path, diary):
    diary.break_in = "train"
    with pytest.raises(KeyboardInterrupt):
        diary.go(tmp_path / "run")
    with pytest.raises(UserError, match=r"optim\.lr: 0\.1 -> 0\.2.*--redo train"):
        diary.go(tmp_path / "run", Recipe(optim=Optim(lr=0.2)))


def test_a_stage_that_left_nothing_to_resume_from_starts_with_other_settings(tmp_path, diary, monkeypatch):
    def fail(name, run):
        (run.folder / name / "metrics.csv").write_text("epoch\n")
        raise UserError("no such file")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no such file"):
        patch.setattr(diary, "note", fail)
        diary.go(tmp_path / "run")
    assert diary.go(tmp_path / "run", Recipe(data="real", optim=Optim(lr=0.5))) == ["pack", "train", "report"]
    assert read_record(tmp_path / "run", "pack")["settings"] == {"data": "real"}


def test_a_stage_whose_input_was_made_anew_is_done_again(tmp_path, diary):
    diary.go(tmp_path / "run")
    (tmp_path / "run" / "train" / "stage.json").unlink()
    (tmp_path / "run" / "train" / ".begun.json").unlink()
    assert diary.go(tmp_path / "run") == ["train", "report"]


def test_an_unknown_stage_to_redo_gets_the_nearest(tmp_path, diary):
    with pytest.raises(UserError, match=r"No stage named trian\. Near it: train\."):
        diary.go(tmp_path / "run", redo=["trian"])
    assert not (tmp_path / "run").exists()


def test_the_run_of_another_recipe_is_refused(tmp_path, diary):
    run_stages(Run(tmp_path / "run", Recipe()), [Stage("teachers", lambda run, settings: None, uses=())])
    with pytest.raises(UserError, match="the run of another recipe: it has the stage teachers"):
        diary.go(tmp_path / "run")


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path, diary):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"is not a run folder: it has thesis\.tex"):
        diary.go(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["thesis.tex"]


def test_a_run_folder_that_cannot_be_made_is_one_sentence(tmp_path, diary):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: Not a directory\. Choose another place\."):
        diary.go(tmp_path / "file" / "run")
    assert diary.worked == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_without_permission_is_one_sentence(tmp_path, diary):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot be written: Permission denied"):
        diary.go(tmp_path / "run")


def test_a_full_disk_is_told_before_anything_is_computed(tmp_path, diary, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        diary.go(tmp_path / "run")
    assert diary.worked == []


def test_a_nearly_full_disk_is_told_with_what_is_free(tmp_path, diary, monkeypatch):
    monkeypatch.setattr(run_folder, "NEEDED_BYTES", 2**70)
    with pytest.raises(UserError, match=r"only .* are free on its disk"):
        diary.go(tmp_path / "run")
    assert diary.worked == []


def test_a_damaged_record_is_named(tmp_path, diary):
    diary.go(tmp_path / "run")
    (tmp_path / "run" / "train" / "stage.json").write_text('{"stage": ')
    with pytest.raises(UserError, match=r"train/stage\.json is damaged"):
        diary.go(tmp_path / "run")


def test_further_processes_of_a_run_say_nothing(tmp_path, diary, monkeypatch, capsys):
    diary.go(tmp_path / "run", redo=["train"])
    capsys.readouterr()
    further_process(monkeypatch)
    monkeypatch.setattr(output, "_quiet", False)
    first_process_that_is_where_it_is_waited_for(monkeypatch)
    diary.go(tmp_path / "run", redo=["train"])
    say("a word of a stage")
    assert capsys.readouterr().err == ""


def test_further_processes_of_a_run_work_but_keep_no_records(tmp_path, diary, monkeypatch):
    diary.break_in = "train"
    with pytest.raises(KeyboardInterrupt):
        diary.go(tmp_path / "run", redo=["train"])
    diary.break_in = ""
    further_process(monkeypatch)
    waited = first_process_that_is_where_it_is_waited_for(monkeypatch)
    assert diary.go(tmp_path / "run", redo=["train"]) == ["train", "report"]
    assert waited == ["exists", "_is_begun train", "_is_over train", "_is_begun report", "_is_over report"]
    assert [path.parent.name for path in (tmp_path / "run").glob("*/stage.json")] == ["pack"]


def test_two_steps_are_done_in_one_folder_by_all_processes(tmp_path, monkeypatch):
    folders = []

    def work(run: Run, settings: Recipe, fast_check: bool) -> None:
        folders.append(run.folder)
        assert fast_check
        if is_main_process():
            with monkeypatch.context() as patch:
                further_process(patch)
                first_process_that_is_where_it_is_waited_for(patch)
                do_two_steps(settings, [Stage("train", work, ())])

    do_two_steps(Recipe(), [Stage("train", work, ())])
    assert len(folders) == 2 and len(set(folders)) == 1 and not folders[0].exists()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="--fast_check starts its processes itself"):
        do_two_steps(Recipe(), [Stage("train", work, ())])


def test_a_further_process_ends_when_the_folder_of_two_steps_is_gone(tmp_path, monkeypatch):
    folder = tmp_path / "steps"
    monkeypatch.setenv("DCASE_KIT_TWO_STEPS", str(folder))
    monkeypatch.setenv("DCASE_KIT_STAGES", "train,report,more")
    further_process(monkeypatch)

    def work(run: Run, settings: Recipe, fast_check: bool) -> None:
        shutil.rmtree(folder)

    stages = [Stage("train", work, ()), Stage("report", _fail, (), alone=True), Stage("more", _fail, ())]
    (folder / "run").mkdir(parents=True)
    do_two_steps(Recipe(), stages)
    assert not folder.exists()


def _fail(run: Run, settings: Recipe, fast_check: bool = False) -> None:
    raise AssertionError("the folder is gone")


def first_process_that_is_where_it_is_waited_for(monkeypatch) -> list[str]:
    """Wait for nothing; gives what was waited for."""
    waited: list[str] = []

    def note(happened) -> None:
        path = happened.args[0] if isinstance(happened, partial) else None
        waited.append(f"{happened.func.__name__} {path.name}" if path else happened.__name__)

    monkeypatch.setattr(stages, "_wait_until", note)
    return waited


def further_process(monkeypatch) -> None:
    """Make this process one that Lightning starts, in the middle of a stage; it stays quiet to the end of the test."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(output, "_quiet", True)

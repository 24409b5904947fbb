"""Real trainings under kills, a full disk, a second call, and a clock that goes backwards; Task 1 of 2026, small."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from common.synthetic.synthesize import synthesize
from tests.support.places import ROOT

pytestmark = pytest.mark.slow
CONFIG = """\
name: run_seed{{seed}}
data: {{curated: {root}/data/BSD10k, folds: [0]}}
network: {{hidden_size: 16, num_residual_blocks: 1}}
curated: {{epochs: 12, patience: 12, batch_size: 32}}
trainer: {{accelerator: cpu, measure_energy: false}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sounds")
    synthesize("broad_sounds", root / "data", 230, seed=0)
    (root / "config.yaml").write_text(CONFIG.format(root=root))
    return root / "config.yaml"


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> dict[str, bytes]:
    """Results of an uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish("train", config, "--runs", folder)[0] == 0
    return results(folder)


def start(*words, limit: int | None = None) -> subprocess.Popen:
    def shrink() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "task1_asc", "sounds", *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=shrink,
    )  # fmt: skip


def finish(*words, **options) -> tuple[int, str]:
    """Exit code and messages."""
    process = start(*words, **options)
    _, told = process.communicate()
    return process.returncode, told


def wait_for(condition, process) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def results(folder: Path) -> dict[str, bytes]:
    """Predictions of each run, and the table of a sweep."""
    found = [*folder.rglob("predictions.csv"), *folder.rglob("results.csv")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


def touched_since(folder: Path, moment: float) -> bool:
    """Whether a file of a run was written after `moment`."""
    return any(path.stat().st_mtime > moment for path in folder.rglob("stage.json")) or any(
        path.stat().st_mtime > moment for path in folder.rglob(".begun.json")
    )


def test_a_sweep_that_was_killed_ten_times_gives_the_same_results(config, tmp_path):
    words = ("sweep", config, "--over", "seed=0,1,2,3", "--curated.epochs", 40, "--curated.patience", 40, "--runs")
    assert finish(*words, tmp_path / "whole")[0] == 0
    places, kills = random.Random(13), 0
    for _ in range(10):
        process, began = start(*words, tmp_path / "killed"), time.time()
        touched = partial(touched_since, tmp_path / "killed", began)
        while process.poll() is None and not touched():
            time.sleep(0.02)
        time.sleep(places.uniform(0, 1))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 10, kills
    code, told = finish(*words, tmp_path / "killed")
    assert code == 0, told
    whole = results(tmp_path / "whole")
    assert len(whole) == 5 and results(tmp_path / "killed") == whole
    assert list((tmp_path / "killed").rglob(".*.part")) == []


FULL_DISK = """
disk=$1 kept=$2; shift 2
mount -t tmpfs -o size=256m none "$disk" || exit 1
"$@" --runs "$disk" 2> "$kept/first" & training=$!
while [ -z "$(find "$disk" -name "*.ckpt")" ] && kill -0 $training; do sleep 0.05; done
head -c 256M /dev/zero > "$disk/filler" 2> /dev/null
wait $training; echo $? > "$kept/codes"
rm "$disk/filler"
"$@" --runs "$disk" 2> "$kept/second"; echo $? >> "$kept/codes"
cp -r "$disk" "$kept/runs"
"""


@pytest.mark.parametrize("verb", [["train"], ["sweep", "--over", "seed=0,1"]], ids=["train", "sweep"])
def test_a_disk_that_is_full_in_the_middle_is_one_sentence_and_the_same_command_goes_on(config, tmp_path, verb):
    alone = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "mount", "-t", "tmpfs", "none", tmp_path]).returncode:
        pytest.skip("this system lets nobody mount a small disk of his own")
    words = [verb[0], config, *verb[1:], "--curated.epochs", 30, "--curated.patience", 30]
    assert finish(*words, "--runs", tmp_path / "whole")[0] == 0
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    command = [*alone, "sh", "-c", FULL_DISK, "sh", disk, kept, sys.executable, "-m", "task1_asc", "sounds", *words]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    told = (kept / "first").read_text()
    assert "No space left" in told and "Traceback" not in told, told
    assert (kept / "codes").read_text().split() == ["2", "0"], told
    assert results(kept / "runs") == results(tmp_path / "whole")


def test_a_file_that_is_too_large_is_one_sentence_and_the_run_resumes(config, whole, tmp_path):
    code, told = finish("train", config, "--runs", tmp_path / "full", limit=100_000)  # the first checkpoint is larger
    assert code == 2 and "Traceback" not in told, told
    assert "is larger than `ulimit -f` allows" in told
    assert finish("train", "--resume", tmp_path / "full" / "run_seed0")[0] == 0
    assert results(tmp_path / "full") == whole


def test_a_second_training_in_the_same_folder_is_refused(config, tmp_path):
    words = ("train", config, "--curated.epochs", 300, "--curated.patience", 300, "--runs", tmp_path)
    first = start(*words)
    wait_for((tmp_path / "run_seed0" / "fold0_curated").exists, first)
    code, told = finish(*words)
    assert code == 2 and told.count("\n") == 1 and "is in use by process" in told and "Traceback" not in told
    assert first.poll() is None
    first.kill()
    first.communicate()


@pytest.mark.parametrize("days", [-3, 3])
def test_a_clock_that_goes_backwards_neither_repeats_nor_skips_a_stage(config, whole, tmp_path, days):
    process = start("train", config, "--runs", tmp_path / "moved")
    folder = tmp_path / "moved" / "run_seed0"
    wait_for(lambda: list(folder.glob("fold0_curated/member0/*.ckpt")), process)
    process.kill()
    process.communicate()
    shift(tmp_path / "moved", days)
    assert finish("train", "--resume", folder)[0] == 0
    assert results(tmp_path / "moved") == whole
    shift(tmp_path / "moved", -days)
    code, told = finish("train", "--resume", folder)
    assert code == 0 and told.count(": kept") == 3, told


def shift(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        moment = path.stat().st_mtime + days * 86_400
        os.utime(path, (moment, moment))

"""Sets of Task 4 with tables, recordings or endings missing, and names from a Mac."""

import shutil
import unicodedata

import numpy as np
import pytest

from common.cli import run
from common.data.audio import write_wav
from common.errors import UserError
from task4_sed.__main__ import VERBS
from task4_sed.data.check import check_data
from task4_sed.data.maestro import SCENES, VALIDATION_RECORDINGS
from task4_sed.data.sets import audio_folder, read_set, split_weak

SECOND = 16_000


@pytest.fixture
def root(tiny_task4, tmp_path):
    return shutil.copytree(tiny_task4, tmp_path / "data", ignore=shutil.ignore_patterns("packed", "embeddings"))


def test_the_check_reports_on_clips_without_their_table(root):
    whole = {row["set"]: row["clips"] for row in check_data(root).rows}
    for table in ("train/weak.tsv", "maestro_real_train.tsv"):
        (root / "metadata" / table).unlink()
    damaged = min(audio_folder(root, "weak").iterdir())
    damaged.write_bytes(b"")
    report = check_data(root)
    rows = {row["set"]: row for row in report.rows}
    for name in ("weak", "maestro_train"):
        assert rows[name]["clips"] == rows[name]["published"] == whole[name] > 0
        assert rows[name]["set"] == name
    assert any("weak.tsv does not exist" in problem for problem in report.problems)
    assert any("maestro_real_train.tsv" in problem for problem in report.problems)
    assert any(damaged.name in problem for problem in report.problems)


def test_the_check_reports_a_set_without_table_and_audio(root):
    shutil.rmtree(audio_folder(root, "strong"))
    (root / "metadata/train/strong.tsv").unlink(missing_ok=True)
    report = check_data(root)
    assert {"set": "strong", "clips": 0}.items() <= {row["set"]: row for row in report.rows}["strong"].items()
    assert any("The audio of the set strong is missing" in problem for problem in report.problems)


@pytest.fixture
def maestro(tmp_path):
    """One validation and one training recording of each scene."""
    source, random = tmp_path / "maestro", np.random.default_rng(0)
    first = {name.rpartition("_")[0]: name for name in reversed(VALIDATION_RECORDINGS)}
    for name in [*first.values(), *(f"{scene}_00" for scene in SCENES)]:
        write_wav(source / f"development_audio/{name}.wav", 0.1 * random.standard_normal(11 * SECOND), SECOND)
        labels = source / f"development_annotation/{name}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("5\t6\tcar\t0.75\n")
    return source


def cut(capsys, *words) -> tuple[int, str]:
    code = run("python -m task4_sed", VERBS, ["data", "cut", *map(str, words)])
    return code, capsys.readouterr().err


def test_maestro_with_missing_recordings_is_cut_when_allowed(maestro, tmp_path, capsys):
    words = ("--source", maestro, "--root", tmp_path / "root")
    code, err = cut(capsys, *words)
    assert code == 2
    assert "11 validation recordings are missing" in err and "--allow_missing" in err
    assert not (tmp_path / "root").exists()
    code, err = cut(capsys, *words, "--allow_missing")
    assert code == 0
    assert "11 validation recordings are missing" in err and VALIDATION_RECORDINGS[1] in err
    assert len(read_set(tmp_path / "root", "maestro_train")) == 5 * 2
    assert len(read_set(tmp_path / "root", "maestro_validation")) == 5 * 2


def test_maestro_without_an_annotation_is_cut_when_allowed(maestro, tmp_path, capsys):
    (maestro / "development_annotation" / f"{SCENES[0]}_00.txt").unlink()
    words = ("--source", maestro, "--root", tmp_path / "root", "--allow_missing")
    code, err = cut(capsys, *words)
    assert code == 0
    assert f"1 recordings have no annotation in {maestro} ({SCENES[0]}_00)" in err
    assert len(read_set(tmp_path / "root", "maestro_train")) == 4 * 2


def test_maestro_without_any_recording_of_a_split_is_refused(maestro, tmp_path, capsys):
    for scene in SCENES:
        (maestro / "development_audio" / f"{scene}_00.wav").unlink()
    code, err = cut(capsys, "--source", maestro, "--root", tmp_path / "root", "--allow_missing")
    assert code == 2
    assert "There is no recording for maestro_real_train.tsv" in err


def test_clips_are_found_under_another_unicode_form_and_ending(root):
    table = root / "metadata/train/weak.tsv"
    folder = audio_folder(root, "weak")
    before = read_set(root, "weak")
    kept = [len(part) for part in split_weak(before, root)]
    old, composed = before.filenames[0], unicodedata.normalize("NFC", "Yé.wav")
    table.write_text(table.read_text(encoding="utf-8").replace(old, composed), encoding="utf-8")
    (folder / old).rename(folder / unicodedata.normalize("NFD", composed))
    other = before.filenames[1]
    (folder / other).rename((folder / other).with_suffix(".flac"))
    after = read_set(root, "weak")
    assert len(after) == len(before) and after.missing == ()
    assert len(after.events) == len(before.events)
    assert [len(part) for part in split_weak(after, root)] == kept


def stems(parts):
    return [{name.rpartition(".")[0] for name in part.filenames} for part in parts]


def test_the_weak_split_does_not_depend_on_the_ending_of_the_audio(root):
    folder = audio_folder(root, "weak")
    expected = [
        {name.rpartition(".")[0] for name in part.filenames} for part in split_weak(read_set(root, "weak"), root)
    ]
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(".flac"))
    assert stems(split_weak(read_set(root, "weak"), root)) == expected


def test_a_missing_clip_is_still_refused(root):
    folder = audio_folder(root, "weak")
    next(folder.iterdir()).unlink()
    with pytest.raises(UserError, match=r"1 of \d+ clips of the set weak are missing"):
        read_set(root, "weak")

"""`data check` looks at the clips also when tables or lists of splits are missing; Clotho's other folders are found."""

import shutil

import numpy as np
import pytest

from common.data.audio import write_wav
from common.synthetic.synthesize import synthesize
from retrieval.data.captions import check_split, read_manifest
from retrieval.data.check import check_data as check_retrieval
from task1_asc.data.check import check_data as check_scenes
from task1_asc.data.tau2022 import DEVELOPMENT


def test_task_1_reports_on_clips_without_the_split_lists(tiny_task1, tmp_path):
    shutil.copytree(tiny_task1 / DEVELOPMENT, tmp_path / DEVELOPMENT)
    first = next((tmp_path / DEVELOPMENT / "audio").iterdir())
    first.write_bytes(b"")
    problems = check_scenes(tmp_path).problems
    # The lists of the whole training set and of the test lie in the data set, too.
    assert sum("There is no list of the split" in problem for problem in problems) == 4
    assert any(f"files cannot be read: audio/{first.name}" in problem for problem in problems)


def test_retrieval_reports_on_clips_without_the_table_of_captions(tmp_path):
    synthesize("retrieval", tmp_path, clips=18)
    (tmp_path / "clotho_captions_development.csv").unlink()
    report = check_retrieval(tmp_path)
    assert {"data set": "clotho", "split": "development", "clips": 12, "captions": 0} in report.rows
    assert "development holds 12 clips (officially 3839), but there is no usable table" in report.problems[0]


@pytest.mark.parametrize("inner", ["", "development"])
def test_clotho_is_found_in_the_folders_of_its_archives(tmp_path, inner):
    synthesize("retrieval", tmp_path, clips=18)
    place = tmp_path / "clotho_audio_development" / inner
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "development").rename(place)
    assert check_split(read_manifest("clotho", tmp_path, "development"), tmp_path) == []


COMPOSED, SPLIT_OFF = "Caf\u00e9.wav", "Cafe\u0301.wav"


@pytest.mark.parametrize(("listed", "on_disk"), [(COMPOSED, SPLIT_OFF), (SPLIT_OFF, COMPOSED), (COMPOSED, COMPOSED)])
@pytest.mark.parametrize("dataset", ["clotho", "folder"])
def test_a_name_in_another_unicode_form_is_found(tmp_path, listed, on_disk, dataset):
    table = "clotho_captions_development.csv" if dataset == "clotho" else "captions_development.csv"
    (tmp_path / table).write_text(f"file_name,caption_1\n{listed},cups\n", encoding="utf-8")
    write_wav(tmp_path / "development" / on_disk, np.zeros(100, np.float32), 16000)
    manifest = read_manifest(dataset, tmp_path, "development")
    assert manifest["path"][0].is_file() and manifest["file_name"][0] == listed


def test_the_reported_name_is_found(shared):
    root = shared / "cases" / "15_names_decomposed_on_disk"
    assert not any("missing" in problem for problem in check_split(read_manifest("clotho", root, "development"), root))

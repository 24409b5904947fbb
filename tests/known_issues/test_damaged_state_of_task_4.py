"""Files that a run of Task 4 wrote and somebody damaged are refused with the file and what to do."""

import json
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.inference.event_boxes import BoxSettings
from common.settings import load_settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.evaluate import read_finisher
from tests.support.quick_task4 import SMALL


@pytest.fixture
def run(tmp_path):
    places = {"data.root": str(tmp_path), "postprocessing.boxes": {}}
    (tmp_path / "test").mkdir()
    return SimpleNamespace(folder=tmp_path, settings=load_settings(Task4Settings, SMALL, places))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"Dog": 3}', '{"Dog": [0.5, 1]}', '{"Dog": [0.5, 1, 2, 3]}', '{"Dog": [0.5, "x", null]}', "\0"],
)
def test_damaged_boxes_are_refused_in_one_sentence(run, text):
    path = run.folder / "test" / "boxes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"boxes.json.*--redo test"):
        read_finisher(run)


def test_missing_boxes_are_refused_and_whole_ones_read(run):
    with pytest.raises(UserError, match=r"boxes.json does not exist.*--redo test"):
        read_finisher(run)
    (run.folder / "test" / "boxes.json").write_text(json.dumps({"Dog": [0.5, None, 2]}))
    assert read_finisher(run).boxes == {"Dog": BoxSettings(0.5, float("inf"), 2.0)}

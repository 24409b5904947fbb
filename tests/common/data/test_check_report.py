"""The report of `data check`."""

import json
from pathlib import Path

import pytest

from common.data.check_report import CheckReport
from common.errors import CheckFailed

ROWS = [{"split": "5", "clips": 100, "expected": 100}]


def test_a_report_without_problems_is_a_table_that_names_made_up_data(capsys):
    CheckReport(Path("data"), made_up=True, rows=ROWS).show(json=False)
    captured = capsys.readouterr()
    assert "Made-up data in data" in captured.out and "expected" in captured.out
    assert captured.err == "No problems found.\n"


def test_problems_fail_the_check_after_the_report(capsys):
    with pytest.raises(CheckFailed, match=r"^a\.wav is missing\.$"):
        CheckReport(Path("data"), rows=ROWS, problems=["a.wav is missing."]).show(json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"root": "data", "made_up": False, "rows": ROWS, "problems": ["a.wav is missing."]}

"""`python -m common models`: what is known of the models, without torch."""

import json
import subprocess
import sys

import pytest

from common.__main__ import VERBS
from common.cli import run
from common.errors import UserError
from common.registry.models import describe_models
from tests.support.places import ROOT


def test_a_pattern_finds_architectures_and_their_released_weights():
    names = [row["name"] for row in describe_models("mn10*")]
    assert names[0] == "mn10"
    assert "mn10.as" in names
    assert all(name.startswith("mn10") for name in names)


def test_released_weights_come_with_what_is_needed_to_use_them():
    (row,) = describe_models("mn10.as")
    assert {"file", "url", "licence", "paper", "figure", "labels", "front_end", "options"} <= set(row)
    assert row["licence"] == "MIT"


def test_a_pattern_that_fits_nothing_gets_the_nearest_names():
    with pytest.raises(UserError, match=r"No model named mn11\. Near it: .*mn1"):
        describe_models("mn11")


def test_the_verb_prints_a_table_or_json(capsys):
    assert run("program", VERBS, ["models", "mn10"]) == 0
    assert "mn10" in capsys.readouterr().out
    assert run("program", VERBS, ["models", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 20


def test_the_verb_refuses_a_name_that_nothing_has(capsys):
    assert run("program", VERBS, ["models", "mn11"]) == 2
    assert capsys.readouterr().out == ""


def test_the_verb_loads_no_torch():
    script = """
import sys
from common.__main__ import VERBS
from common.cli import run
assert run("program", VERBS, ["models", "mn*"]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)

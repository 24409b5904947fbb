"""`psds A B` and `compare` on folders of score tables."""

import json
from dataclasses import replace

import pytest

from common.cli import run
from task4_sed.__main__ import VERBS
from task4_sed.metrics.operating_points import detections_at
from task4_sed.scores.tables import write_score_tables
from tests.support.golden_sed import golden_scores, golden_set, write_golden


def call(capsys, *words) -> tuple[int, str, str]:
    code = run("python -m task4_sed", VERBS, [*map(str, words)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A system, one that takes each class for another, and the ground truth."""
    folder = tmp_path_factory.mktemp("two")
    first, events, durations = write_golden("ties", folder)
    tables = golden_scores("ties")
    write_score_tables(replace(tables, values=tables.values[::-1].copy()), folder / "worse")
    return first, folder / "worse", ["--ground_truth", events, "--durations", durations]


def test_psds_of_two_systems_are_compared_with_intervals(capsys, two):
    first, worse, reference = two
    code, out, _ = call(capsys, "psds", first, worse, *reference, "--draws", 200, "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found["systems"][1]["figures"]) == [
        "PSDS1", "PSDS2", "collar F1 at 0.5", "intersection F1 at 0.5"
    ]  # fmt: skip
    alone = json.loads(call(capsys, "psds", first, *reference, "--draws", 200, "--json")[1])
    own = found["systems"][0]["figures"]["PSDS2"]
    assert own["value"] == alone["psds2"]["value"]
    assert own["interval"] == pytest.approx(alone["psds2"]["interval"], abs=1e-9)
    assert found["systems"][1]["figures"]["PSDS2"]["word"] == "worse"
    assert set(found["systems"][1]["parts"]["PSDS1 of each class"]) == set(alone["psds1"]["per_class"])
    code, out, _ = call(capsys, "compare", first, worse, *reference)
    assert code == 0 and "PSDS1 in per cent, 23 recordings" in out


def test_mistakes_are_one_sentence(capsys, two, tmp_path):
    first, worse, reference = two
    table = detections_at(golden_set("ties"), 0.5).rename(columns={"clip": "filename"})
    (tmp_path / "points").mkdir()
    table.to_csv(tmp_path / "points" / "at_0.5.tsv", sep="\t", index=False)
    less = write_golden("ties", tmp_path)[0]
    (less / "tie_03.tsv").unlink()
    for words, sentence in (
        (("psds", first, tmp_path / "points", *reference), "holds detections at fixed thresholds"),
        (("psds", first, worse, *reference, "--plots"), "take one system"),
        (("psds", first, tmp_path / "none", *reference), "There is no folder of score tables"),
        (("psds", first, less, *reference, "--draws", 0), "different test sets: tie_03 is in one of them only"),
        (("compare", first, worse), "folders of scores need --ground_truth F.tsv --durations F.tsv"),
        (("compare", first, worse, *reference[:2]), "belong together"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "") and sentence in err

"""Differences between systems: which word they earn, and what is printed."""

import json

import numpy as np
import pytest

from common.errors import UserError
from common.reports.compare import Measured, System, compare, print_comparison
from common.reports.statistics import difference_over_seeds, draws_of_mean

CLIPS = {"test": [f"clip{number}" for number in range(40)]}


def measured(shift: float = 0.0, seed: int | None = 0, noise: int = 0, **changes) -> Measured:
    """A run that is right on 60 % of 40 clips, moved by `shift`; `noise` draws what differs from clip to clip."""
    random = np.random.default_rng(1)
    values = (random.random(40) < 0.6) + shift + 0.5 * np.random.default_rng(noise).normal(size=40) * bool(noise)
    draws = draws_of_mean(values, np.arange(40) // 2, 200)
    facts = {"figures": {"accuracy": draws, "other": draws / 2}, "parts": {"accuracy of each class": {"bus": draws}}}
    return Measured(f"run{seed}", seed, **({"test_sets": CLIPS, "counted": "20 recordings"} | facts | changes))


def word(*systems: list[Measured]) -> str:
    return compare([System(name, runs) for name, runs in zip("AB", systems)]).figures["accuracy"][1].word


def test_equal_clips_are_drawn_alike_so_that_a_constant_gain_has_no_width():
    better = compare([System("A", [measured()]), System("B", [measured(0.02)])]).figures["accuracy"][1]
    assert better.difference == pytest.approx((0.02, 0.02, 0.02))
    assert better.own.high - better.own.low > 0.2
    assert better.word == "better"


def test_the_word_follows_the_interval():
    assert word([measured()], [measured(-0.02)]) == "worse"
    assert word([measured()], [measured(0.02, noise=3)]) == "not distinguishable on 20 recordings"
    assert word([measured()], [measured()]) == "not distinguishable on 20 recordings"


def test_several_seeds_must_agree():
    first = [measured(0.1 * seed, seed) for seed in range(4)]
    gain = [measured(0.1 * seed + 0.05, seed) for seed in range(4)]
    scattered = [measured(0.1 * (3 - seed) + 0.05, seed) for seed in range(4)]
    assert word(first, gain) == "better"  # in each seed
    assert word(first, scattered) == "not distinguishable with 4 seeds"


def test_other_seeds_are_compared_unpaired_and_one_run_says_nothing_of_seeds():
    paired = difference_over_seeds([0, 1, 2], [0.1, 0.5, 0.9], [2, 1, 0], [0.95, 0.55, 0.15])
    assert paired[:3] == pytest.approx((0.05, 0.05, 0.05)) and paired.pairs == 3
    other = difference_over_seeds([0, 1, 2], [0.1, 0.5, 0.9], [3, 4, 5], [0.15, 0.55, 0.95])
    assert other.value == pytest.approx(0.05) and other.low < -0.5 and other.pairs == 0
    assert difference_over_seeds([0], [0.1], [0, 1], [0.2, 0.3]) is None


def test_different_test_sets_are_refused_in_a_sentence():
    less = measured(test_sets={"test": CLIPS["test"][1:]})
    with pytest.raises(UserError, match=r"have different test sets: clip0 is in one of them only. Compare runs"):
        word([measured()], [less])
    with pytest.raises(UserError, match="different test sets: test and evaluation"):
        word([measured()], [measured(test_sets={"evaluation": CLIPS["test"]})])
    with pytest.raises(UserError, match="needs two systems"):
        compare([System("A", [measured()])])


def test_figures_that_one_system_lacks_are_left_out():
    one = measured(figures={"accuracy": measured().figures["accuracy"]})
    assert list(compare([System("A", [measured()]), System("B", [one])]).figures) == ["accuracy"]


def test_people_read_per_cent_and_a_sentence(capsys):
    print_comparison([compare([System("small", [measured()]), System("a long name of a run", [measured(0.021)])])])
    out = capsys.readouterr().out
    assert "B is better than A: +2.1 [2.1, 2.1]." in out
    assert "A: small" in out and "B: a long name of a run" in out
    assert "bootstrap over recordings" in out and "train several seeds" in out
    assert max(map(len, out.splitlines())) < 100


def test_three_systems_are_marked_where_they_differ(capsys):
    systems = [System("A", [measured()]), System("B", [measured(0.02)]), System("C", [measured(0.01, noise=3)])]
    print_comparison([compare(systems)])
    out = capsys.readouterr().out
    assert "+2.0*" in out and "C and A: not distinguishable on 20 recordings." in out


def test_json_holds_shares_and_every_part(capsys):
    seeds = [measured(0.02, seed) for seed in range(2)]
    print_comparison([compare([System("A", [measured(0, 0), measured(0, 1)]), System("B", seeds)])], as_json=True)
    found = json.loads(capsys.readouterr().out)
    second = found["systems"][1]
    assert second["seeds"] == [0, 1] and second["runs"] == ["run0", "run1"]
    assert second["figures"]["accuracy"]["difference"]["value"] == pytest.approx(0.02)
    assert second["figures"]["accuracy"]["over_seeds"]["pairs"] == 2
    assert second["parts"]["accuracy of each class"]["bus"]["word"] == "better"
    assert "difference" not in found["systems"][0]["figures"]["accuracy"]

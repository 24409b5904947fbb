"""What a table of own recordings decides in the settings, and which files a run needs."""

import pytest

from common.errors import UserError
from common.settings import load_settings
from task4_sed.baseline import inputs
from task4_sed.baseline.inputs import check_inputs, use_own_data
from task4_sed.baseline.settings import Task4Settings
from task4_sed.data import sets
from task4_sed.labels import CLASSES
from task4_sed.settings import ModelSettings
from tests.support.places import ROOT

CONFIGS = ROOT / "task4_sed" / "configs"
FACTS = {
    "classes": ["Bell", "Door", "Knock"],
    "median": {"Bell": 3, "Door": 9},
    "windows": {"train": 20, "validation": 4},
}


def own(**changes) -> Task4Settings:
    table = {"data.table": "events.tsv"}
    return load_settings(
        Task4Settings, CONFIGS / "own.yaml", {**table, **{k.replace("__", "."): v for k, v in changes.items()}}
    )


def decided(settings: Task4Settings, **facts) -> Task4Settings:
    return inputs._with_facts(settings, {**FACTS, **facts})


def test_settings_without_a_table_stay_as_they_are():
    settings = load_settings(Task4Settings, CONFIGS / "small.yaml")
    assert use_own_data(settings) is settings


@pytest.mark.parametrize(
    ("table", "windows", "prepared"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_windows_are_cut_unless_those_of_a_finished_run_are_all_there_is(
    monkeypatch, tmp_path, table, windows, prepared
):
    if table:
        (tmp_path / "events.tsv").write_text("")
    if windows:
        (tmp_path / "windows").mkdir()
        (tmp_path / "windows" / "own.json").write_text("{}")
    cut = []

    def prepare_own(*arguments):
        cut.append(arguments[:2])
        return tmp_path / "new", FACTS

    monkeypatch.setattr("task4_sed.data.own.prepare_own", prepare_own)
    monkeypatch.setattr("task4_sed.data.own.FACTS", "own.json")
    places = {"data__table": str(tmp_path / "events.tsv"), "data__audio": None, "data__root": str(tmp_path / "windows")}
    settings = use_own_data(own(**places))
    assert cut == ([(tmp_path / "events.tsv", tmp_path)] if prepared else [])
    assert settings.data.root == tmp_path / ("new" if prepared else "windows")


@pytest.mark.parametrize(
    ("pooling", "fits"),
    [([(2, 4), (2, 8)], True), ([(2, 4), (2, 4)], False), ([(1, 4), (2, 8)], False), ([(4, 32)], False),
     ([(2, 4), (2, 8), (1, 1)], False)],
)  # fmt: skip
def test_blocks_pool_to_a_quarter_of_the_frames_and_one_band_and_each_has_its_own(pooling, fits):
    network = ModelSettings(filters=[8, 8], pooling=pooling)
    if fits:
        network.refuse_other_sizes(32, "model")
    else:
        with pytest.raises(
            ValueError, match=r"model\.pooling needs one entry per block \(2\), and 4 in time and 32 in mels"
        ):
            network.refuse_other_sizes(32, "model")


def test_an_unknown_network_is_told_before_anything_is_read():
    settings = load_settings(Task4Settings, CONFIGS / "small.yaml", {"model.name": "desed_crnn_2042"})
    with pytest.raises(UserError, match=r"No model named desed_crnn_2042\. Near it: desed_crnn_2024"):
        check_inputs(settings)


def test_the_batch_is_one_group_of_own_windows_no_larger_than_there_are():
    settings = own()
    asked = sum(group.clips for group in settings.data.batch)
    for windows, clips in ((asked + 5, asked), (asked, asked), (3, 3)):
        (group,) = decided(settings, windows={"train": windows, "validation": 4}).data.batch
        assert (group.sets, group.clips) == (["own_train"], clips)


def test_classes_are_those_of_the_settings_if_the_table_has_them_all():
    assert decided(own()).labels.classes == FACTS["classes"]
    assert decided(own(labels__classes=["Door", "Bell"])).labels.classes == ["Door", "Bell"]
    assert decided(own(labels__classes=["Door", "Cat"])).labels.classes == FACTS["classes"]


def test_filters_follow_from_the_events_unless_other_lengths_are_given():
    measured = {"Bell": 3, "Door": 9, "Knock": 7}
    assert decided(own()).postprocessing.median_frames == measured
    assert decided(own(postprocessing__median_frames=5)).postprocessing.median_frames == 5
    given = {"Bell": 1, "Door": 1, "Knock": 1}
    every = {**dict.fromkeys(CLASSES, 7), **given}
    assert decided(own(postprocessing__median_frames=every)).postprocessing.median_frames == every
    assert decided(own(postprocessing__median_frames={**every, "Bell": 1})).postprocessing.median_frames["Bell"] == 1
    exact = own(postprocessing__median_frames=given, labels__classes=list(given))
    assert decided(exact).postprocessing.median_frames == given
    of_others = dict.fromkeys(CLASSES, 5)
    assert decided(own(postprocessing__median_frames=of_others)).postprocessing.median_frames == measured


def test_a_validation_needs_recordings():
    none = {"train": 20, "validation": 0}
    with pytest.raises(UserError, match="no validation recording; name one in its column split"):
        decided(own(), windows=none)
    off = {f"validation__{name}": False for name in ("weak", "synthetic", "maestro")}
    assert decided(own(**off), windows=none).data.batch[0].clips <= 20


@pytest.fixture
def looked_for(monkeypatch) -> list:
    """Names of the sets whose files are looked for."""
    found: list = []
    monkeypatch.setattr(sets, "read_set", lambda _root, name, *_more: found.append(name))
    return found


def test_the_sets_of_the_batch_of_the_validation_and_of_the_test_are_looked_for_once(looked_for):
    settings = load_settings(Task4Settings, CONFIGS / "small.yaml")
    check_inputs(settings)
    assert looked_for == ["maestro_train", "synthetic_train", "strong", "weak", "unlabeled", "synthetic_validation",
                          "validation", "maestro_validation"]  # fmt: skip
    looked_for.clear()
    desed = load_settings(Task4Settings, CONFIGS / "baseline_2023.yaml", {"validation.synthetic": False})
    check_inputs(desed)
    assert looked_for == ["synthetic_train", "weak", "unlabeled", "validation"]
    looked_for.clear()
    check_inputs(decided(own()))
    assert looked_for == ["own_train"]


@pytest.mark.parametrize(
    ("embeddings", "untrained", "weights", "refused"),
    [("none", False, True, False), ("cached", False, True, True), ("live", False, True, True),
     ("cached", True, True, False), ("cached", False, False, False)],
)  # fmt: skip
def test_weights_are_needed_where_embeddings_are_computed_from_them(
    looked_for, embeddings, untrained, weights, refused
):
    changes = {"embeddings": embeddings, "embedding.untrained": untrained}
    settings = load_settings(
        Task4Settings, CONFIGS / "small.yaml", {**changes, "embedding.weights": "no.pt" if weights else None}
    )
    if refused:
        with pytest.raises(UserError, match=r"embedding\.weights: there is no file no\.pt"):
            check_inputs(settings)
    else:
        check_inputs(settings)
        assert looked_for

"""Where rules end: what is still right, beside what is just wrong."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from submissions.package import check_package
from submissions.reading import EvaluationFiles
from tests.support.damage import broken, edit_line, meta, named, put, rewrite
from tests.support.packages import edit_declaration, edit_meta, report, score_table, write_task1, write_task4

SPLIT = "*split_25.csv"


@pytest.fixture
def package(tmp_path) -> Path:
    return write_task1(tmp_path)


def figures(package: Path, change) -> None:
    edit_meta(package, lambda data: change(data["results"]["development_dataset"]["split_25"]))


def test_four_systems_of_a_team_are_accepted(tmp_path):
    packages = [write_task1(tmp_path, f"Lastname_INST_task1_{number}") for number in (1, 2, 3, 4)]
    assert broken(packages[0]) == {}
    assert all(result.holds for result in check_package(packages[0])[1])


def test_reports_are_allowed_at_every_level_and_other_files_at_none(package):
    for folder in (package, package / "task1", meta(package).parent, meta(package).parent / "figures"):
        folder.mkdir(exist_ok=True)
        (folder / "more.pdf").write_bytes(report())
    assert broken(package) == {}
    (package / "task1" / "more.png").write_bytes(b"x")
    assert broken(package)["no_other_files"][0].place == "task1/more.png"


def test_an_evaluation_set_without_files_is_told(package):
    edit_declaration(package, lambda data: data.update(files=[]))
    assert broken(package)["evaluation_list"][0].sentence == "lists no files"


def test_only_a_made_up_evaluation_set_is_called_so(package):
    def notes(**options) -> list[str]:
        results = {result.name: result for result in check_package(package, **options)[1]}
        return [finding.sentence for finding in results["evaluation_list"].findings]

    assert "not fit for the challenge" in notes()[0]
    listed = EvaluationFiles(files=[f"{number}.wav" for number in range(12)], source="list.csv")
    assert notes(evaluation_set=listed) == []


def test_the_right_label_is_named_where_another_is_given(package):
    table = pd.read_csv(named(package, SPLIT), sep="\t")
    best = table["scene_label"].iat[0]
    table.loc[0, "scene_label"] = next(name for name in table.columns[2:] if name != best)
    table.to_csv(named(package, SPLIT), sep="\t", index=False)
    (finding,) = broken(package)["argmax"]
    assert finding.place.endswith("split_25.csv:2") and finding.sentence.endswith(f"but {best} is more probable")


def test_a_label_without_a_probability_is_not_the_most_probable(package):
    def damage(table: pd.DataFrame) -> None:
        table.iloc[0, 2:] = "0"
        table.loc[0, "scene_label"], table.loc[0, "bus"] = "bus", "nan"

    rewrite(SPLIT, damage)(package)
    assert [finding.place[-2:] for finding in broken(package)["argmax"]] == [":2"]


def test_the_overall_accuracy_lies_within_two_points_of_its_devices(package):
    def devices(split: dict, offset: float) -> None:
        for figure in split["device_wise"].values():
            figure["accuracy"] = round(split["overall"]["accuracy"] + offset, 2)

    for offset, fits in ((1.9, True), (-1.9, True), (2.1, False), (-2.1, False)):
        figures(package, lambda split, offset=offset: devices(split, offset))
        assert ("figures_consistent" not in broken(package)) is fits, offset


def test_exactly_two_points_beside_the_devices_are_fine(package):
    for accuracy in (48.0, 52.0):

        def change(split: dict, accuracy=accuracy) -> None:
            for figure in (split["overall"], *split["class_wise"].values()):
                figure["accuracy"] = 50.0
            for figure in split["device_wise"].values():
                figure["accuracy"] = accuracy

        figures(package, change)
        assert "figures_consistent" not in broken(package), accuracy


def test_classes_that_are_alike_without_log_losses_were_not_measured(package):
    def change(split: dict) -> None:
        for figure in (split["overall"], *split["class_wise"].values()):
            figure.update(accuracy=50.0, logloss=None)

    figures(package, change)
    assert "every class of split_25 has the accuracy 50" in broken(package)["figures_plausible"][0].sentence


def test_classes_that_are_all_alike_were_not_measured(package):
    def flat(split: dict, loss: float) -> None:
        for number, figure in enumerate(split["class_wise"].values()):
            figure.update(accuracy=50.0, logloss=1.5 + loss * number)
        split["overall"].update(accuracy=50.0, logloss=1.5)

    figures(package, lambda split: flat(split, loss=0.01))
    assert "figures_plausible" not in broken(package)
    figures(package, lambda split: flat(split, loss=0))
    assert broken(package)["figures_plausible"][0].sentence.startswith("every class of split_25 has the accuracy 50")


def test_accuracies_of_one_per_cent_are_no_fractions_where_one_is_above(package):
    def low(split: dict) -> None:
        for figure in split["class_wise"].values():
            figure["accuracy"] = 1.0
        split["class_wise"]["bus"]["accuracy"] = 2.0

    figures(package, low)
    assert "figures_plausible" not in broken(package)
    figures(package, lambda split: split["class_wise"]["bus"].update(accuracy=0.9))
    assert "give per cent" in broken(package)["figures_plausible"][0].sentence


def test_a_table_of_one_row_is_not_collapsed(tmp_path):
    package = write_task1(tmp_path, files=["0.wav"])
    found = broken(package, evaluation_set=EvaluationFiles(files=["0.wav"]))
    assert "not_collapsed" not in found


def test_a_table_with_an_odd_row_and_another_header_is_told_once(package):
    edit_line(named(package, SPLIT), 1, lambda row: row.replace("airport", "air"))
    edit_line(named(package, SPLIT), 3, lambda row: row + "\t0")
    (finding,) = broken(package)["table_form"]
    assert finding.place.endswith(":3")


def test_each_split_has_its_own_figures(package):
    def close(data: dict) -> None:
        splits = data["results"]["development_dataset"]
        splits["split_50"] = splits["split_5"]

    edit_meta(package, close)
    edit_meta(package, put("results", "development_dataset", "split_50", "class_wise", "bus", "logloss", value=1.99))
    assert "figures_plausible" not in broken(package)


@pytest.fixture
def sound_events(tmp_path) -> Path:
    return write_task4(tmp_path)


@pytest.mark.parametrize(("kwh", "fits"), [(3.0, True), (1.5, True), (2.0, False)])
def test_energy_is_the_sum_or_the_mean_of_the_runs(sound_events, kwh, fits):
    rows = {"run_id": ["a", "a", "b"], "duration": [1, 2, 1], "energy_consumed": [0.5, 1.0, 2.0]}
    pd.DataFrame(rows).to_csv(named(sound_events, "*.codecarbon.training.csv"), index=False)
    edit_meta(sound_events, put("system", "energy", "training_kwh", value=kwh))
    edit_meta(sound_events, put("system", "energy", "training_ratio", value=2 * kwh))
    assert ("energy" not in broken(sound_events)) is fits


@pytest.mark.parametrize(("score", "fits"), [(0, True), (1, True), (1.0001, False), (-0.0001, False)])
def test_scores_are_from_0_to_1_both_included(sound_events, score, fits):
    path = named(sound_events, "*_run2.output/clip_1.tsv")
    table = score_table(7)
    table.loc[3, "Dog"] = score
    table.to_csv(path, sep="\t", index=False)
    assert ("score_numbers" not in broken(sound_events)) is fits


def test_classes_with_scores_of_their_own_are_not_collapsed(sound_events):
    for path in sound_events.rglob("*_run2.output/*.tsv"):
        table = pd.read_csv(path, sep="\t")
        table[table.columns[2:]] = np.linspace(0.1, 0.9, table.shape[1] - 2)
        table.to_csv(path, sep="\t", index=False)
    assert "scores_vary" not in broken(sound_events)


def test_a_run_beside_its_unprocessed_scores_is_no_copy(sound_events):
    folder = named(sound_events, "*_run1_unprocessed.output")
    shutil.rmtree(folder)
    shutil.copytree(named(sound_events, "*_run1.output"), folder)
    assert broken(sound_events) == {}

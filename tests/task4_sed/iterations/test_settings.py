"""The winner's recipe: its YAML files against the fact sheet, number by number, and what may be changed in a call."""

import re
from pathlib import Path

import numpy as np
import pytest

from common.cli import run
from common.errors import UserError
from common.settings import SettingsError, changed_settings, load_settings
from task4_sed.__main__ import VERBS
from task4_sed.baseline.settings import Task4Settings
from task4_sed.iterations.data import check_inputs
from task4_sed.iterations.recipe import make_stages
from task4_sed.iterations.settings import KINDS, PseudoLabelSettings, StageSettings, TwoIterations
from task4_sed.labels import CLASSES
from task4_sed.postprocessing.finisher import box_grid
from task4_sed.systems import AnySystem, load_recipe
from tests.support.places import ROOT
from tests.support.quick_task4 import BASELINE_MEDIAN_FRAMES

FOLDER = ROOT / "task4_sed" / "configs"
SMALL = FOLDER / "two_iterations_small.yaml"
NAMES = ("atst", "fpasst", "beats")


@pytest.fixture(scope="module")
def published() -> TwoIterations:
    return load_settings(AnySystem, FOLDER / "two_iterations.yaml")


def counts(stage: StageSettings) -> tuple[int, ...]:
    return tuple(getattr(stage.batch, kind) for kind in KINDS)


def weights(stage: StageSettings) -> tuple[float, ...]:
    return tuple(stage.loss.weights.model_dump().values())


def rates(stage: StageSettings) -> tuple[float, float, float | None, float]:
    optim = stage.optim
    return optim.cnn_lr, optim.rnn_lr, optim.transformer_lr, optim.layer_decay


def test_a_line_in_the_file_tells_the_two_recipes_apart(published):
    assert isinstance(published, TwoIterations)
    assert isinstance(load_settings(AnySystem, FOLDER / "baseline.yaml"), Task4Settings)


def test_the_network_and_its_data_are_those_of_the_fact_sheet(published):
    crnn = published.crnn
    assert crnn.filters == [16, 32, 64, 128, 128, 128, 128]
    assert crnn.pooling == [(2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)]
    assert (crnn.gate, crnn.fusion_dim, crnn.num_rnn_layers, crnn.rnn_dim) == ("cg", 256, 2, 256)
    assert (published.stage1.dropout, published.stage2.dropout) == (0.3, 0.5)
    projections = [published.transformers[name].projection for name in NAMES]
    assert [None if p is None else (p.dim, p.trained) for p in projections] == [(527, False), (527, False), None]
    assert [published.transformers[name].aggregation for name in NAMES] == ["adaptive", "nearest", "nearest"]
    assert published.names == list(NAMES)
    labels = published.labels
    assert tuple(labels.classes) == CLASSES
    assert (labels.maestro_to_desed, labels.desed_to_maestro, labels.dog_in_maestro) == (True, True, False)
    assert labels.overlap == "last"
    assert published.data.sets.strong == ["strong", "external_strong"]
    assert set(published.data.exclude) == {"strong", "weak", "unlabeled"}
    assert (published.teacher.decay, published.teacher.average_statistics) == (0.999, False)
    assert (published.trainer.precision, published.trainer.validate_every) == ("16-mixed", 10)
    held_out = published.validation
    assert held_out.weak and held_out.synthetic and held_out.external and held_out.maestro
    assert published.postprocessing.network == "student"
    assert published.postprocessing.median_frames == BASELINE_MEDIAN_FRAMES
    assert published.crnn.dropstep == 0


@pytest.mark.parametrize("name", NAMES)
def test_stage_1_of_the_first_iteration_has_the_defaults_of_the_code(published, name):
    stage = published.stage(name, 1, 1)
    assert counts(stage) == (12, 10, 10, 20, 20)
    assert (stage.accumulate, stage.epochs) == (1, 200)
    assert rates(stage) == (1e-3, 1e-3, None, 1.0)
    assert (stage.optim.name, stage.optim.weight_decay, stage.optim.warmup_steps) == ("adamw", 1e-2, 4000)
    assert weights(stage) == (0.08, 0.05, 0.08, 0.21, 0.58, 0)
    assert (stage.loss.scale, stage.loss.frame_divisor, stage.loss.clip_divisor) == (5, 1, 1)
    wanted = stage.consistency
    assert (wanted.ramp_steps, wanted.ramp_limit) == (14_000, 2)
    assert (wanted.masked, wanted.weak_on_maestro) == (True, True)
    assert (wanted.teacher_hears, wanted.interpolation) == ("augmented", False)
    augment = stage.augment
    assert (augment.wavmix.probability, augment.wavmix.alpha) == (0.5, 0.2)
    assert (augment.mixup.probability, augment.mixup.alpha) == (0.5, 0.2)
    assert (augment.mixstyle.probability, augment.mixstyle.alpha) == (0.5, 0.3)
    chosen = augment.filter
    assert (chosen.probability, chosen.bands, chosen.min_width, chosen.decibels) == (0.8, (3, 5), 6, 6)
    assert chosen.on_log_mels == "kept"
    assert (augment.time_mask, augment.frequency_warp, augment.impulse_responses) == (None, None, None)
    assert (augment.frame_shift, augment.gain_db) == (0, 0)
    fixed = {"f_min_jitter": 0, "f_max": 8000, "f_max_jitter": 0}
    assert stage.front_end == (fixed if name == "fpasst" else {})


@pytest.mark.parametrize("name", NAMES)
def test_stage_1_of_the_second_iteration_has_the_published_commands(published, name):
    stage = published.stage(name, 2, 1)
    beats = name == "beats"
    assert counts(stage) == ((3, 3, 3, 5, 5) if beats else (12, 10, 10, 20, 20))
    assert (stage.accumulate, stage.epochs) == (4 if beats else 1, 200)
    assert rates(stage) == (5e-4, 5e-4, None, 1.0)
    assert (stage.optim.name, stage.optim.weight_decay, stage.optim.warmup_steps) == ("adamw", 1e-2, 4000)
    assert weights(stage) == (0.5, 0.25, 0.08 if beats else 0.12, 0.1, 0.1, 1.5)
    assert stage.augment.filter is None
    assert (stage.augment.mixstyle is None) == (not beats)
    assert stage.consistency.masked == (name == "fpasst")
    assert stage.consistency.weak_on_maestro == (name != "fpasst")
    fixed = {"f_min_jitter": 0, "f_max": 7000, "f_max_jitter": 0}
    assert stage.front_end == (fixed if name == "fpasst" else {})


# Batch, accumulation, rates of CNN, RNN, transformer, decay per layer; warping of MAESTRO (None: off), weak on MAESTRO.
STAGE2 = {
    "atst": ((7, 5, 5, 9, 9), 8, (1e-5, 1e-4, 1e-4, 0.5), True, True),
    "fpasst": ((7, 5, 5, 9, 9), 8, (5e-5, 5e-4, 1e-4, 1.0), None, False),
    "beats": ((3, 2, 2, 3, 3), 36, (5e-5, 5e-4, 1e-4, 1.0), True, False),
}


@pytest.mark.parametrize("iteration", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_stage_2_has_the_published_commands_of_each_transformer(published, name, iteration):
    stage = published.stage(name, iteration, 2)
    batch, accumulate, expected, warped_maestro, weak_on_maestro = STAGE2[name]
    assert (counts(stage), stage.accumulate, rates(stage)) == (batch, accumulate, expected)
    assert weights(stage) == (12, 3, 0.25, 1, 60, 0)
    assert (stage.loss.scale, stage.loss.frame_divisor, stage.loss.clip_divisor) == (1, 3, 2)
    assert (stage.optim.name, stage.optim.weight_decay) == ("adamw", 1e-3)
    assert (stage.epochs, stage.optim.warmup_steps) == (250, 270)
    wanted = stage.consistency
    assert (wanted.ramp_steps, wanted.ramp_limit, wanted.interpolation_divisor) == (270, 1, 4 * 8)
    assert (wanted.teacher_hears, wanted.interpolation, wanted.joint_term_twice) == ("clean", True, True)
    assert wanted.weak_on_maestro == weak_on_maestro
    warp = stage.augment.frequency_warp
    if warped_maestro is None:
        assert warp is None
    else:
        assert (warp.probability, warp.smallest, warp.maestro) == (0.5, 0.6, warped_maestro)
    assert stage.augment.filter.on_log_mels == "multiply"
    jitter = {"f_min_jitter": 0, "f_max": 7000, "f_max_jitter": 2000}
    assert stage.front_end == (jitter if name == "fpasst" else {})
    mask = stage.augment.time_mask
    assert (mask.smallest, mask.largest, mask.pseudo_labels) == (0.05, 0.3, "kept")
    assert stage.augment.impulse_responses.probability == 0.5
    assert (stage.augment.mixup.probability, stage.augment.mixup.alpha) == (0.5, 0.2)


def test_the_default_of_stage_2_is_that_of_the_code(published):
    assert counts(published.stage2) == (7, 5, 5, 9, 9)
    assert rates(published.stage2) == (1e-4, 1e-3, 1e-4, 1.0)
    warp = published.stage2.augment.frequency_warp
    assert (warp.probability, warp.maestro) == (0.5, False)
    assert published.stage2.consistency.weak_on_maestro


def test_event_boxes_are_tuned_on_the_published_grid_of_128(published):
    boxes = published.postprocessing.boxes
    grid = {"step_filter_lengths": (0.38, 0.66, 0.04), "merge_thresholds_abs": (0.15, 0.325, 0.025),
            "merge_thresholds_rel": (1.5, 3.25, 0.25)}  # fmt: skip
    for name, (first, last, step) in grid.items():
        assert getattr(boxes, name) == pytest.approx(np.arange(first, last + step / 2, step).round(3).tolist())
    found = box_grid(boxes.step_filter_lengths, boxes.merge_thresholds_abs, boxes.merge_thresholds_rel)
    assert len(found) == 128


def numbers_of(cell: str) -> list[float]:
    return [float(text) for text in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?", cell.replace("4,000", "4000"))]


def rows_of(sheet: str, heading: str) -> dict[str, list[str]]:
    """Rows of the first table below a heading of the fact sheet: name to its cells."""
    rows = {}
    for line in sheet.split(heading, 1)[1].splitlines()[1:]:
        if line.startswith("#") or (rows and not line.startswith("|")):
            break
        if line.startswith("|"):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[name] = cells
    return rows


def test_the_yaml_agrees_with_the_tables_of_the_fact_sheet_itself(published, shared):
    sheet = (shared / "reference" / "task4_sed.md").read_text(encoding="utf-8")
    rows = rows_of(sheet, "### 3.2")
    first, second = published.stage("atst", 1, 1), published.stage("atst", 2, 1)
    beats = published.stage("beats", 2, 1)
    assert numbers_of(rows["batch"][0]) == list(counts(first))
    assert numbers_of(rows["batch"][1])[:6] == [*counts(beats), beats.accumulate]
    assert numbers_of(rows["epochs"][0]) == [first.epochs]
    optim = [first.optim.cnn_lr, first.optim.weight_decay, 0.9, 0.999, 0, first.optim.warmup_steps]
    assert numbers_of(rows["optimizer"][0]) == optim
    assert numbers_of(rows["optimizer"][1]) == [second.optim.cnn_lr]
    named = "weights MAESTRO, strong, synth, weak, self-supervised, pseudo"
    assert numbers_of(rows[named][0]) == list(weights(first))
    theirs = numbers_of(rows[named][1])
    assert theirs[:3] + theirs[4:] == list(weights(second))
    assert theirs[3] == beats.loss.weights.synthetic
    augment = first.augment
    drawn = [part.probability for part in (augment.wavmix, augment.mixup, augment.mixstyle, augment.filter)]
    assert numbers_of(rows["augmentation"][0]) == drawn
    rows = rows_of(sheet, "### 3.3")
    stages = {name: published.stage(name, 2, 2) for name in NAMES}
    assert numbers_of(rows["batch x accumulation"][0]) == list(counts(published.stage2))
    steps = [clips * stages["atst"].accumulate for clips in counts(stages["atst"])]
    assert numbers_of(rows["batch x accumulation"][1]) == [stages["atst"].accumulate, *steps]
    assert numbers_of(rows["batch x accumulation"][2]) == [stages["fpasst"].accumulate]
    assert numbers_of(rows["batch x accumulation"][3]) == [*counts(stages["beats"]), stages["beats"].accumulate]
    assert numbers_of(rows["weights (order as above)"][1]) == list(weights(stages["atst"]))
    for column, stage in enumerate((published.stage2, *stages.values())):
        three = [stage.optim.cnn_lr, stage.optim.rnn_lr, stage.optim.transformer_lr]
        assert numbers_of(rows["lr CNN / RNN and head / transformer"][column]) == three
        assert numbers_of(rows["layer-wise decay of the transformer rate"][column]) == [stage.optim.layer_decay]
        weak = {"yes": True, "no": False}[rows["weak self-supervised loss on MAESTRO"][column]]
        assert stage.consistency.weak_on_maestro == weak
    assert numbers_of(rows["optimizer"][1]) == [stages["atst"].optim.weight_decay]
    assert numbers_of(rows["epochs, warm-up"][0]) == [published.stage2.epochs, published.stage2.optim.warmup_steps]


def test_ours_differs_from_the_published_only_in_what_is_odd(published):
    ours = load_settings(AnySystem, FOLDER / "two_iterations_ours.yaml")
    changed = {change.partition(":")[0] for change in changed_settings(published, ours)}
    assert changed == {
        "name",
        "labels.overlap",
        "crnn.norm_momentum",
        "teacher.average_statistics",
        *(f"transformers.{name}.model" for name in NAMES),
        *(f"transformers.{name}.projection{key}" for name in ("atst", "fpasst") for key in ("", ".dim", ".trained")),
        "transformers.fpasst.weights",
        "transformers.beats.weights",
        "transformers.fpasst.aggregation",
        "transformers.beats.aggregation",
        "stage2.augment.filter.on_log_mels",
        "stage2.augment.time_mask.pseudo_labels",
        "stage2.consistency.joint_term_twice",
    }
    assert ours.transformers["beats"].aggregation == "exact"


def test_what_differs_for_one_transformer_can_be_set_in_a_call(tmp_path, capsys):
    overrides = {"transformers.atst.stage2.optim.layer_decay": 0.3, "stage2.optim.cnn_lr": 5e-3}
    settings = load_settings(AnySystem, SMALL, overrides)
    assert settings.stage("atst", 1, 2).optim.layer_decay == 0.3
    assert settings.stage("beats", 1, 2).optim.layer_decay == 0.8
    assert settings.stage("atst", 1, 2).optim.cnn_lr == 5e-3
    with pytest.raises(UserError, match=r"transformers.atst.stage2: .*layer_deca.* Did you mean layer_decay"):
        load_settings(AnySystem, SMALL, {"transformers.atst.stage2.optim.layer_deca": 0.3})
    with pytest.raises(SettingsError, match="members names ats; there are: atst, fpasst, beats"):
        load_settings(AnySystem, SMALL, {"members": ["ats"]})
    with pytest.raises(SettingsError, match=r"postprocessing.system is passt; it must be ensemble or one of atst"):
        load_settings(AnySystem, SMALL, {"postprocessing.system": "passt"})
    assert run("python -m task4_sed", VERBS, ["train", str(SMALL), "--stage1.epoch", "3"]) == 2
    assert "--stage1.epoch is not a setting. Did you mean epochs?" in capsys.readouterr().err


def test_processes_that_cannot_share_the_batches_of_a_step_are_told_what_to_set():
    with pytest.raises(SettingsError, match="make 2 processes, which cannot share the 1 batches of a step of stage 1"):
        load_settings(AnySystem, SMALL, {"trainer.devices": 2})
    shared = {"trainer.devices": 2, "stage1.accumulate": 4, "stage2.accumulate": 2}
    settings = load_settings(AnySystem, SMALL, shared)
    assert settings.trainer_settings(settings.stage("atst", 1, 1)).accumulate == 2


def test_absent_weights_responses_and_lists_are_told_before_anything_is_trained(published, tiny_task4, tmp_path):
    def refused(**changes):
        plain = {"data.root": str(tiny_task4), "runs": str(tmp_path), "trainer.measure_energy": False}
        overrides = {name.replace("__", "."): value for name, value in changes.items()}
        return load_settings(AnySystem, SMALL, {**plain, **overrides})

    absent = {"model": "beats", "weights": str(tmp_path / "beats_as.pt")}
    with pytest.raises(UserError, match=r"transformers.beats.weights: there is no file .*beats_as.pt"):
        load_recipe().run(refused(transformers__beats=absent))
    responses = {"folder": str(tmp_path / "micirp"), "probability": 0.5}
    with pytest.raises(UserError, match=r"impulse_responses: There is no folder .*micirp"):
        load_recipe().run(refused(stage2__augment__impulse_responses=responses))
    with pytest.raises(UserError, match=r"data.exclude: there is no .*weak_exclude.tsv"):
        load_recipe().run(refused(data__exclude={"weak": "metadata/weak_exclude.tsv"}))
    with pytest.raises(UserError, match=r"data\.sets\.strong names weak, whose labels are weak; it needs sets"):
        load_recipe().run(refused(data__sets__strong=["weak"]))
    assert not list(tmp_path.glob("*/*/stage.json"))
    without_file = refused(transformers__beats={"model": "beats"})
    check_inputs(without_file)
    with pytest.raises(UserError, match=r"beats could not be loaded: beats is an architecture; name its weights"):
        from task4_sed.iterations.network import make_network

        make_network(without_file, "beats", without_file.stage("beats", 1, 1))


def test_the_stages_are_the_method_and_need_only_what_they_read(published):
    stages = {stage.name: stage for stage in make_stages(published)}
    assert list(stages)[:3] == ["iteration1_stage1_atst", "iteration1_stage2_atst", "iteration1_scores_atst"]
    assert list(stages)[9:12] == ["pseudo_labels", "iteration2_stage1_atst", "iteration2_stage2_atst"]
    assert list(stages)[-1] == "test"
    assert stages["iteration1_stage1_beats"].needs == ()
    assert stages["iteration1_stage2_beats"].needs == ("iteration1_stage1_beats",)
    assert stages["pseudo_labels"].needs == tuple(f"iteration1_scores_{name}" for name in NAMES)
    assert stages["iteration2_stage1_fpasst"].needs == ("pseudo_labels",)
    assert "stage2" not in stages["iteration1_stage1_beats"].uses
    assert "stage1_distilled" in stages["iteration2_stage2_beats"].uses
    assert "transformers.atst.model" not in stages["iteration2_stage2_beats"].uses
    assert set(published.training_stages) == {name for name in stages if name.startswith("iteration")}
    given = published.model_copy(update={"pseudo_labels": PseudoLabelSettings(folder=Path("labels"))})
    assert [stage.name for stage in make_stages(given)] == list(stages)[9:]
    assert published.network == "iteration2_stage2_ensemble"
    assert published.model_copy(update={"members": ["beats"]}).network == "iteration2_stage2_beats"

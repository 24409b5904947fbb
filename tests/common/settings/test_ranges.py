"""Every setting of the kit: which numbers it may be, and what it is where a file leaves it out."""

import importlib
import math
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from common.settings import RunSettings, Settings
from tests.support.places import ROOT

DEFAULTS = yaml.safe_load((ROOT / "tests" / "golden" / "default_settings.yaml").read_text())
MODULES = sorted({name.rpartition(".")[0] for name in DEFAULTS})
FAR = 10**9 + 1

# By name, or by class and name where the name alone has another range.
RANGES = {
    "any": "threshold head_bias",
    "0 < x": """
        alpha channels_multiplier clip_divisor decay_end_epoch duration expansion_rate f_max finetuned_seconds
        frame_divisor gradient_clip interpolation_divisor lr max_duration mixstyle_alpha mixup_alpha poll_s
        projection_lr ramp_limit scale seconds sequence_lr temperature transformer_lr window""",
    "0 <= x": """
        background cnn_lr consistency contrastive_weight decay_from_epoch
        decibels distillation_weight down_epochs down_length down_start EvaluationSettings.draws dropstep_frames
        f_max_jitter f_min f_min_jitter fall_epochs fall_from AdamRamps.floor frequency_mask frozen_epochs gain_db giou
        gpus hidden_layers hierarchical_weight label maestro margin median_ms min_duration_ms min_lr noise
        num_residual_blocks num_workers offset pseudo ramp_epochs rise_epochs rnn_lr roll saliency seed span split_seed
        strong synthetic time_mask unlabeled warmup warmup_epochs warmup_steps weak weight_decay""",
    "1 <= x": """
        accumulate at_once base_channels batch batch_size calibration_clips clips clips_per_epoch count cpus
        decoder_layers dim draws encoder_layers epochs eval_batch every feedforward fusion_dim halve_every heads
        hop_length max_bytes max_macs max_seconds max_windows max_words median_frames mel_rate members memory_gb
        min_width minutes n_fft n_mels num_nodes num_rnn_layers patience pretraining_epochs ramp_steps rnn_dim
        schedule_epochs scoring_batch shuffle_block slots start validate_every width win_length
        FeatureEncoder.window""",
    # Batch norm and contrastive losses need two clips, a text its first and last token, cross-validation two parts.
    "2 <= x": """
        Learning.batch_size CrowdLearning.batch_size ImitationTraining.batch_size Detector.batch_size pairs_per_batch
        max_tokens BoxTuning.folds""",
    "8 <= x": "hidden_size",
    "1 <= x <= 5": "captions_per_clip",
    "0 <= x <= 9": "fold",
    "0 <= x <= 1": """
        balance floor frame_shift label_weight largest masked mixstyle_probability probability pseudo_weight
        roll_seconds smallest wavmix_probability weight""",
    "0 < x <= 1": "layer_decay norm_momentum FrequencyWarpSettings.smallest",
    "0 <= x < 1": "dropout dropstep input_dropout label_smoothing warmup_share",
    "0 < x < 1": "average_decay decay ema_decay share",
}
RANGE_OF = {name: text for text, names in RANGES.items() for name in names.split()}


def all_settings() -> dict[str, type[Settings]]:
    """Every class of settings, by module and name."""
    modules = [importlib.import_module(name) for name in MODULES]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {f"{one.__module__}.{one.__name__}": one for one in found if issubclass(one, Settings)}


CLASSES = all_settings()


def own_fields(cls: type[Settings]) -> Iterator[tuple[str, Any]]:
    for name in cls.__annotations__:
        if name in cls.model_fields:
            yield name, cls.model_fields[name]


def is_refused(cls: type[Settings], name: str, value: Any) -> bool:
    """Whether this value of this setting is a mistake, whatever else is missing or wrong."""
    try:
        cls.model_validate({name: value})
    except ValidationError as error:
        return any(one["loc"][:1] == (name,) for one in error.errors())
    return False


def numbers() -> list[tuple[type[Settings], str, bool]]:
    """Settings that are one number, and whether it is a whole one."""
    found = []
    for cls in CLASSES.values():
        for name, field in own_fields(cls):
            group = get_origin(field.annotation) in (list, tuple)
            kinds = set(get_args(field.annotation) or (field.annotation,)) - {type(None)}
            if kinds <= {int, float} and not group:
                found.append((cls, name, kinds == {int}))
    return found


@pytest.mark.parametrize(("cls", "name", "whole"), numbers(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_number_is_refused_just_beyond_its_range_and_not_within(cls, name, whole):
    text = RANGE_OF.get(f"{cls.__name__}.{name}") or RANGE_OF.get(name)
    assert text, f"{cls.__name__}.{name} is new: say in RANGES which numbers make sense"
    if text == "any":
        assert not is_refused(cls, name, -FAR) and not is_refused(cls, name, FAR)
        return
    step = 1 if whole else 1e-9
    below, _, above = text.partition("x")
    low, *closed = below.split()
    inside = float(low) + (step if closed == ["<"] else 0)
    assert not is_refused(cls, name, int(inside) if whole else inside)
    assert is_refused(cls, name, int(inside - step) if whole else inside - step)
    if not above:
        assert not is_refused(cls, name, FAR)
        return
    *closed, high = above.split()
    inside = float(high) - (step if closed == ["<"] else 0)
    assert not is_refused(cls, name, int(inside) if whole else inside)
    assert is_refused(cls, name, int(inside + step) if whole else inside + step)


def test_no_number_may_be_infinite_or_undefined():
    for cls, name, whole in numbers():
        assert whole or all(is_refused(cls, name, value) for value in (math.inf, -math.inf, math.nan)), name


@pytest.mark.parametrize(("name", "defaults"), DEFAULTS.items())
def test_a_setting_that_a_file_leaves_out_keeps_its_meaning(name, defaults):
    """Files of users leave settings out; another default would train something else without a word."""
    found = defaults_of(CLASSES[name])
    assert {setting: found[setting] for setting in defaults} == defaults


def defaults_of(cls: type[Settings]) -> dict[str, Any]:
    found = {}
    for name, field in own_fields(cls):
        if not field.is_required():
            value = field.get_default(call_default_factory=True, validated_data={})
            found[name] = value.model_dump(exclude_unset=True) if isinstance(value, Settings) else value
    return to_jsonable_python(found)


def test_names_of_runs_fit_a_folder_and_lists_that_must_hold_something_do():
    runs = [cls for cls in CLASSES.values() if issubclass(cls, RunSettings)]
    assert len(runs) > 8
    for cls in runs:
        assert [is_refused(cls, "name", name) for name in ("", "a/b", "a\\b", "a_b", "{seed}")] == [1, 1, 1, 0, 0], cls
    teacher = CLASSES["task1_asc.settings.TeacherSettings"]
    assert [is_refused(teacher, "name", name) for name in ("", "A", "a b", "cp_resnet2")] == [1, 1, 1, 0]
    machine = CLASSES["common.settings.schema.MachineSettings"]
    assert [is_refused(machine, "country", name) for name in ("", "AT", "AUTO", "aut", "DEU")] == [1, 1, 1, 1, 0]
    for name in ("baseline.settings.GroupSettings.sets", "baseline.settings.DataSettings.batch",
                 "labels.LabelSettings.classes", "iterations.settings.TwoIterations.transformers"):  # fmt: skip
        cls, _, field = f"task4_sed.{name}".rpartition(".")
        assert is_refused(CLASSES[cls], field, {} if field == "transformers" else []), name

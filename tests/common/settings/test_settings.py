"""Settings: what a YAML file may hold, and how each mistake in it is told."""

from pathlib import Path
from typing import Annotated, Literal

import pytest

from common.errors import UserError
from common.settings import (
    Field,
    Settings,
    SettingsError,
    changed_settings,
    dump_settings,
    load_settings,
    parse_settings,
)


class Optim(Settings):
    """AdamW."""

    lr: float = Field(5e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(2000, ge=0)
    kind: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None


class Mixup(Settings):
    """Mixes two clips."""

    kind: Literal["mixup"] = "mixup"
    alpha: float = 0.3


class TimeRoll(Settings):
    """Shifts clips in time."""

    kind: Literal["time_roll"] = "time_roll"
    share: float = Field(0.1, gt=0, le=1)


Augmentation = Annotated[Mixup | TimeRoll, Field(discriminator="kind")]


class Training(Settings):
    """Everything."""

    name: str
    subset: int = Field(100, ge=1, le=100)
    deterministic: bool = False
    root: Path = Path("data")
    optim: Optim = Optim(weight_decay=0.5)
    augment: Augmentation | None = None
    chain: list[Augmentation] = []
    loss_weights: dict[str, float] = {}
    scores: list[int | str] = []


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str, overrides=None) -> list[str]:
    with pytest.raises(UserError) as error:
        load_settings(Training, written(folder, text), overrides)
    return str(error.value).replace(f"{folder}/", "").split("\n")


def test_a_file_with_six_mistakes_gets_six_lines_in_their_order(tmp_path):
    text = """\
nam: baseline
subset: 250
deterministic: maybe
optim:
  lr: -1e-3
  weigth_decay: 0.01
  kind: adam
"""
    assert mistakes(tmp_path, text) == [
        "config.yaml:1: nam is not a setting. Did you mean name?",
        "config.yaml:2: subset is 250; it must be 100 or less.",
        'config.yaml:3: deterministic is "maybe"; it must be true or false.',
        "config.yaml:5: optim.lr is -0.001; it must be greater than 0.",
        "config.yaml:6: optim.weigth_decay is not a setting. Did you mean weight_decay?",
        'config.yaml:7: optim.kind is "adam"; it must be one of adamw, sgd. Did you mean adamw?',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("subset: 5\nsubset: 6\nname: x", "config.yaml:2: subset is given twice, first in line 1."),
        ("name: x\noptim:\n  lr: 1\n  lr: 1", "config.yaml:4: optim.lr is given twice, first in line 3."),
        ("subset: 5", "config.yaml:1: name is missing."),
        ("name: x\nlr: 5", "config.yaml:2: lr is not a setting. Did you mean optim.lr?"),
        ("name: x\noptim: {lr: yes}", 'config.yaml:2: optim.lr is "yes"; it must be a number.'),
        ("name: x\noptim: {lr: .nan}", "config.yaml:2: optim.lr is NaN; it must be a finite number."),
        ("name: x\nsubset: 5.5", "config.yaml:2: subset is 5.5; it must be a whole number."),
        ("name: x\nsubset: true", "config.yaml:2: subset is true; it must be a whole number."),
        ("name: x\nsubset: '5'", 'config.yaml:2: subset is "5"; it must be a whole number.'),
        ("name: 7", "config.yaml:1: name is 7; it must be text."),
        ("name:", "config.yaml:1: name is null; it must be text."),
        ("name: x\nroot: [a]", 'config.yaml:2: root is ["a"]; it must be text.'),
        (
            "name: x\noptim: fast",
            'config.yaml:2: optim is "fast"; it must be a group of settings (lines of the form `name: value`).',
        ),
        (
            "name: x\noptim:\n  betas: [0.9, 0.99, 1]",
            "config.yaml:3: optim.betas is [0.9, 0.99, 1]; it must be a list of at most 2 values.",
        ),
        (
            "name: x\noptim:\n  betas:\n  - 0.9\n  - high",
            'config.yaml:5: optim.betas.1 is "high"; it must be a number.',
        ),
        ("name: x\nloss_weights: {weak: a}", 'config.yaml:2: loss_weights.weak is "a"; it must be a number.'),
        ("name: x\nscores: [1.5]", "config.yaml:2: scores.0 is 1.5; it must be a whole number or text."),
        (
            "name: x\naugment: {kind: mixup, share: 1}",
            "config.yaml:2: augment.share is not a setting. augment can have: kind, alpha.",
        ),
        (
            "name: x\naugment:\n  kind: mixpu",
            'config.yaml:3: augment.kind is "mixpu"; it must be one of mixup, time_roll. Did you mean mixup?',
        ),
        ("name: x\naugment: {alpha: 1}", "config.yaml:2: augment.kind is missing; it gives the kind of augment."),
        (
            "name: x\nchain:\n- kind: mixup\n- kind: time_roll\n  share: 2",
            "config.yaml:5: chain.1.share is 2; it must be 1 or less.",
        ),
        ("- 1\n- 2", "config.yaml:1: settings are needed, lines of the form `name: value`, not a list."),
        ("name: &a [*a]", "config.yaml:1: name.0 refers to itself."),
        (
            "name: !!python/name:os.system x",
            "config.yaml:1: name has the tag tag:yaml.org,2002:python/name:os.system, which is not supported.",
        ),
    ],
)
def test_a_mistake_is_told_with_line_name_and_what_is_allowed(tmp_path, text, line):
    found = mistakes(tmp_path, text)
    assert line in found


class Ramp(Settings):
    """One of two kinds that nothing but their names of settings tells apart."""

    lr: float = Field(gt=0)
    rise_epochs: int = Field(ge=0)
    fall_epochs: int = Field(ge=0)


class Cosine(Settings):
    """The other."""

    lr: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)


class Scheduled(Settings):
    """Holds one of them."""

    optim: Ramp | Cosine


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("optim: {lr: -1, rise_epochs: 2, fall_epochs: 3}", ["optim.lr is -1; it must be greater than 0."]),
        ("optim: {lr: -1, warmup_steps: 3}", ["optim.lr is -1; it must be greater than 0."]),
        ("optim: {rise_epochs: 2, fall_epochs: -3}", ["optim.lr is missing.",
                                                      "optim.fall_epochs is -3; it must be 0 or more."]),
        ("optim: fast", ['optim is "fast"; it must be a group of settings (lines of the form `name: value`).']),
    ],
)  # fmt: skip
def test_of_two_kinds_only_the_mistakes_of_the_nearer_one_are_told(tmp_path, text, lines):
    with pytest.raises(UserError) as error:
        load_settings(Scheduled, written(tmp_path, text))
    assert sorted(line.partition(": ")[2] for line in str(error.value).split("\n")) == sorted(lines)


def test_a_name_far_from_all_others_gets_the_list_of_names(tmp_path):
    (line,) = mistakes(tmp_path, "name: x\noptim:\n  zzz: 1")
    expected = "lr, weight_decay, warmup_steps, kind, betas, clip_norm"
    assert line == f"config.yaml:3: optim.zzz is not a setting. optim can have: {expected}."


def test_an_empty_file_says_what_it_needs(tmp_path):
    assert mistakes(tmp_path, "# nothing\n") == [
        "config.yaml:1: the file is empty; it needs settings such as name, subset, deterministic."
    ]


def test_broken_yaml_is_told_with_its_line(tmp_path):
    (line,) = mistakes(tmp_path, "name: x\noptim:\n\tlr: 1\n")
    assert line.startswith("config.yaml:3: this is not YAML:")
    assert "indent with spaces, not tabs" in line


def test_a_missing_file_gets_the_nearest_names_of_its_folder(tmp_path):
    written(tmp_path, "name: x").rename(tmp_path / "baseline.yaml")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"basline\.yaml does not exist\. Near it: baseline\.yaml\."):
        load_settings(Training, tmp_path / "basline.yaml")


def test_a_missing_folder_a_folder_and_a_binary_file_are_told_as_such(tmp_path):
    with pytest.raises(UserError, match="does not exist either"):
        load_settings(Training, tmp_path / "nowhere" / "config.yaml")
    with pytest.raises(UserError, match="is a folder; a YAML file is needed"):
        load_settings(Training, tmp_path)
    (tmp_path / "clip.yaml").write_bytes(b"RIFF\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="this is not text in UTF-8"):
        load_settings(Training, tmp_path / "clip.yaml")


def test_numbers_are_read_as_people_write_them(tmp_path):
    text = "name: no\nsubset: 010\noptim: {lr: 1e-3, weight_decay: 1.5E+2, betas: [.5, 1_0.0], clip_norm: 3}"
    settings = load_settings(Training, written(tmp_path, text))
    assert settings.name == "no"
    assert settings.subset == 10
    assert (settings.optim.lr, settings.optim.weight_decay, settings.optim.clip_norm) == (0.001, 150.0, 3.0)
    assert settings.optim.betas == (0.5, 10.0)


def test_settings_are_frozen(tmp_path):
    settings = load_settings(Training, written(tmp_path, "name: x"))
    with pytest.raises(ValueError, match="frozen"):
        settings.optim.lr = 1.0


def test_dumped_settings_load_back_equal(tmp_path):
    settings = Training(
        name="on",
        root=Path("a b/ü"),
        optim=Optim(lr=1e-7, clip_norm=None),
        augment=TimeRoll(share=1.0),
        chain=[Mixup(), TimeRoll()],
        loss_weights={"1e-3": 2.0, "weak": 1e300},
        scores=[1, "1", "null", "1e5", "0x1F", "1:30", "", "~"],
    )
    assert load_settings(Training, written(tmp_path, dump_settings(settings))) == settings


def test_overrides_lie_over_the_file(tmp_path):
    path = written(tmp_path, "name: x\noptim: {lr: 0.1}\nchain: [{kind: mixup}]")
    settings = load_settings(Training, path, {"optim.lr": 0.2, "subset": 5, "chain.0.alpha": 0.7})
    assert (settings.optim.lr, settings.subset, settings.chain[0].alpha) == (0.2, 5, 0.7)


def test_an_override_in_a_group_that_the_file_leaves_out_keeps_the_defaults_of_the_group(tmp_path):
    settings = load_settings(Training, written(tmp_path, "name: x"), {"optim.lr": 0.2})
    assert settings.optim == Optim(lr=0.2, weight_decay=0.5)


def test_mistakes_of_overrides_are_told_as_options_after_those_of_the_file(tmp_path):
    overrides = {"optim.lrr": 1, "subset": 200, "chain.3.alpha": 1, "augment.kind": "roll"}
    assert mistakes(tmp_path, "name: x\nroot: 1", overrides) == [
        "config.yaml:2: root is 1; it must be text.",
        "--chain.3.alpha: chain is a list of 0 values, counted from 0.",
        "--optim.lrr is not a setting. Did you mean lr?",
        "--subset is 200; it must be 100 or less.",
        '--augment.kind is "roll"; it must be one of mixup, time_roll. Did you mean time_roll?',
    ]


def test_settings_from_a_mapping_are_judged_in_the_same_way():
    assert parse_settings(Training, {"name": "x", "optim": {"lr": 1}}).optim.lr == 1.0
    with pytest.raises(SettingsError, match=r"row 3: optim\.lr is 0; it must be greater than 0\."):
        parse_settings(Training, {"name": "x", "optim": {"lr": 0}}, origin="row 3")


def test_changed_settings_are_named_with_both_values():
    old = Training(name="x", augment=Mixup())
    new = Training(name="y", optim=Optim(weight_decay=0.5, lr=0.001), augment=None, loss_weights={"weak": 2.0})
    assert changed_settings(old, new) == [
        "name: x -> y",
        "optim.lr: 0.005 -> 0.001",
        "augment.kind: mixup -> (none)",
        "augment.alpha: 0.3 -> (none)",
        "loss_weights: {} -> (none)",
        "augment: (none) -> null",
        "loss_weights.weak: (none) -> 2.0",
    ]
    assert changed_settings(old, old) == []


def test_an_old_name_is_refused_with_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr("common.settings.mistakes.RENAMED", {"decay": "weight_decay", "warmup": "optim.warmup_steps"})
    assert mistakes(tmp_path, "name: x\nwarmup: 5\noptim:\n  decay: 0.1", {"optim.decay": 1}) == [
        "config.yaml:2: warmup is now called optim.warmup_steps.",
        "--optim.decay is now called optim.weight_decay.",
    ]


def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("common.settings.mistakes.RENAMED", {"decay": "weight_decay"})
    path = tmp_path / "settings.yaml"
    path.write_text("name: x\nunknown: 1\noptim:\n  decay: 0.1\n")
    with pytest.raises(
        SettingsError, match=r"another version .*unknown is not a setting.* and 1 more\); train"
    ) as told:
        load_settings(Training, path)
    assert "\n" not in str(told.value)

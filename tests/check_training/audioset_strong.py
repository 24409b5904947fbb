"""Training fixtures of PretrainedSED: AudioSet-strong pre-training and DCASE 2016 Task 2."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.labels import label_table
from common.features.augment import wavmix
from common.registry.models import find_architecture, find_network
from common.settings import load_settings
from common.training.schedules import WarmupCosine
from task4_sed.augment import Mixture
from task4_sed.data.annotations import merge_touching
from task4_sed.pretraining.augment import Draws, Share, augment, label_shift, shift_frames
from task4_sed.pretraining.clips import CLASSES
from task4_sed.pretraining.networks import freeze_below_heads, make_model, parameter_groups
from task4_sed.pretraining.office.data import Recordings
from task4_sed.pretraining.office.recipe import FIGURES, find_events, office_figures
from task4_sed.pretraining.scoring import EvaluationScores
from task4_sed.pretraining.settings import ModelSettings, OfficeSettings, PretrainSettings
from task4_sed.pretraining.tables import FrameTargets, StrongEvents, read_strong_table, temporal_weights
from task4_sed.pretraining.train import training_loss
from tests.check_training.fixtures import Fixture, check
from tests.check_training.task4_baseline import draw
from tests.support.places import ROOT

PRETRAINED_SED = "fschmid56/PretrainedSED"
CONFIGS = ROOT / "task4_sed" / "configs"


@cache
def pretraining(role: str = "student") -> PretrainSettings:
    """The published settings of a student or a teacher."""
    return load_settings(PretrainSettings, CONFIGS / f"pretrain_{'atst_frame' if role == 'student' else role}.yaml")


@cache
def finetuning() -> OfficeSettings:
    """The published settings of the fine-tuning."""
    return load_settings(OfficeSettings, CONFIGS / "finetune_dcase2016.yaml")


def losses_of(logits: Tensor, targets: Sequence[Tensor], weight: float) -> dict[str, Any]:
    """Total loss and its weighted parts; the second of `targets` is the teachers'."""
    distilled = targets[1] if len(targets) > 1 else None
    parts = training_loss(logits, targets[0], distilled, weight)
    return {"total": torch.stack(list(parts.values())).sum(), "parts": {"teachers": torch.zeros(()), **parts}}


@check("frame_step", PRETRAINED_SED)
def frame_step(fixture: Fixture) -> dict[str, Any]:
    """Frame logits to losses and gradients."""
    weight = fixture.settings["distillation_weight"]
    logits, targets = fixture.tensor("logits").requires_grad_(), [fixture.tensor("strong")]
    if "pseudo_logits" in fixture.arrays:
        targets.append(fixture.tensor("pseudo_logits").float().sigmoid().double())
    found = losses_of(logits, targets, weight)
    single = [training_loss(logits, target, None, 0.0)["labels"] for target in targets]
    return {
        **found,
        "unweighted": dict(zip(("labels", "teachers"), single)),
        "gradient_logits": torch.autograd.grad(found["total"], logits)[0],
    }


@check("pretraining_views", PRETRAINED_SED)
def pretraining_views(fixture: Fixture) -> dict[str, Any]:
    """Features and draws to what the network hears, targets and the loss."""
    wanted, draws = fixture.settings, fixture.settings["draws"]
    inputs = {name: draw(value) for name, value in wanted["inputs"].items()}
    if wanted["script"] == "ex_dcase2016task2.py":
        settings = finetuning().augmentation
    else:
        settings = pretraining("student" if "pseudo" in inputs else "teacher").augmentation
    drawn = Draws(
        shift=None if "frame_shift" not in draws else torch.tensor(draws["frame_shift"]["drawn_frames"]).trunc().long(),
        mixture=mixture_of(fixture, "mix"),
        style=mixture_of(fixture, "style"),
        stretch=None if "time_mask" not in draws else stretch_of(draws["time_mask"]),
        curve=fixture.tensor("filter_db") if "filter_db" in fixture.arrays else None,
        crop=(draws["frequency_warp"]["first"], draws["frequency_warp"]["kept"]) if "frequency_warp" in draws else None,
    )
    targets = [fixture.tensor("strong"), *([inputs["pseudo"]] if "pseudo" in inputs else [])]
    clips = len(targets[0])
    features, targets = augment(inputs["log_mel"], targets, settings, drawn, Share(0, clips, clips), per_decibel=0.0)
    found = {
        "total": losses_of(inputs["logits"], targets, wanted["distillation_weight"])["total"],
        "log_mel": features[..., wanted["frames_of_log_mel"]],
        "strong_target": targets[0],
    }
    if len(targets) > 1:
        found["distilled_target"] = targets[1][..., :: wanted["distilled_target_every"]]
    return found


def mixture_of(fixture: Fixture, name: str) -> Mixture | None:
    """Weights and partners of a mixture."""
    if f"{name}_weight" not in fixture.arrays:
        return None
    return Mixture(fixture.tensor(f"{name}_weight"), fixture.tensor(f"{name}_partner"))


def stretch_of(mask: Mapping[str, int]) -> tuple[int, int]:
    """First frame of a time mask, and frame after the last."""
    return mask["first"], mask["first"] + mask["width"]


@check("frame_shift", PRETRAINED_SED)
def frame_shift(fixture: Fixture) -> dict[str, Any]:
    """Normal numbers to shifts in frames."""
    cases = []
    for case in fixture.content["expected"]["cases"]:
        normal = torch.tensor(case["standard_normal"], dtype=torch.float64)
        shift = shift_frames(normal, case["frames"], case["deviation"])
        cases.append({**case, "shift": shift, "label_shift": label_shift(shift)})
    return {"cases": cases}


@check("wavmix", PRETRAINED_SED)
def check_wavmix(fixture: Fixture) -> dict[str, Any]:
    """Mixed waveforms and targets."""
    clips, partners = fixture.tensor("clip"), fixture.tensor("partner")
    names = {"waveforms": "waveform", "strong": "strong", "pseudo": "pseudo"}
    values = {ours: fixture.tensor(theirs) for theirs, ours in names.items() if theirs in fixture.arrays}
    batch = {name: value[clips].clone() for name, value in values.items()}
    drawn = fixture.tensor("drawn")
    others = {name: value[partners] for name, value in values.items()}
    wavmix(batch, others, torch.arange(len(clips)), torch.maximum(drawn, 1 - drawn))
    return batch


@check("strong_tables", PRETRAINED_SED)
def strong_tables(fixture: Fixture) -> dict[str, Any]:
    """A table of events to frame targets and sampling weights."""
    wanted, clips = fixture.settings, fixture.settings["clips"]
    mid = {row["name"]: row["mid"] for row in label_table("audioset_strong")}
    events = wanted["events"]
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
    for clip, onset, offset, label in zip(*(events[name] for name in ("filename", "onset", "offset", "event_label"))):
        lines.append(f"{clip.removeprefix('Y')}_0\t{onset}\t{offset}\t{mid[label]}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        table = read_strong_table(path)
    rows = [table.clips.index(clip) for clip in clips]
    targets = FrameTargets(table.select(rows), CLASSES)
    columns = [CLASSES.index(name) for name in wanted["target_classes"]]
    _, label, frames = targets.active_frames()
    active = np.bincount(label, weights=frames, minlength=len(CLASSES))
    offsets = fixture.content["expected"]["weights"]
    return {
        "targets": targets.gather(np.arange(len(clips)))[:, columns],
        "active_frames": {name: active[column] for name, column in zip(wanted["target_classes"], columns)},
        "weights": {offset: temporal_weights(targets, float(offset)) for offset in offsets},
    }


@check("schedules", PRETRAINED_SED)
def schedules(fixture: Fixture) -> dict[str, Any]:
    """Factors of the learning rate."""
    cases = []
    for case in fixture.content["expected"]["learning_rate"]:
        factor = WarmupCosine(case["warmup_steps"], case["total_steps"])
        cases.append({**case, "factor_of_step": {step: factor(int(step)) for step in case["factor_of_step"]}})
    return {"learning_rate": cases, "consistency": []}


@check("pretraining_learning_rates", PRETRAINED_SED)
def learning_rates(fixture: Fixture) -> dict[str, Any]:
    """Peak learning rate and weight decay of every weight."""
    wanted, expected = fixture.settings, fixture.content["expected"]
    recipe = pretraining("teacher") if wanted["script"] == "ex_audioset_strong.py" else finetuning()
    changed = {name: wanted[name] for name in ("lr", "layer_decay", "frozen", "weight_decay")}
    optim = recipe.optim.model_copy(update={**changed, "algorithm": wanted["optimizer"]})
    options = (
        {"seq_model_type": "rnn", "rnn_dim": 8} if any("seq_model" in name for name in expected["parameters"]) else {}
    )
    network = make_model(ModelSettings(name=wanted["model"], untrained=True, options=options), CLASSES[:11]).network
    if optim.frozen:
        freeze_below_heads(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, optim)
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    translate = find_network(find_architecture(wanted["model"]).network).released_key
    parameters: dict[str, Any] = {}
    for official, row in expected["parameters"].items():
        group = found.get(str(translate(official)))
        if group is None:  # the head for clips and weights without use get no gradient
            assert official.startswith("weak_head.") or is_unused(official), f"{official} is not trained"
            parameters[official] = row
            continue
        power = next(
            (power for power, lr in expected["lr_of_power"].items() if np.isclose(lr, group["lr"], 1e-9)), "-1"
        )
        parameters[official] = {"power": int(power), "weight_decay": group["weight_decay"]}
    return {
        "parameters": parameters,
        "lr_of_power": {power: optim.lr * optim.layer_decay ** int(power) for power in expected["lr_of_power"]},
        "not_trained": [name for name in expected["not_trained"] if translate(name) not in found],
    }


def is_unused(official: str) -> bool:
    """Whether the forward pass never uses a weight."""
    doubled = "relative_attention_bias" in official and ".layers.0." not in official
    return doubled or official.endswith(("mask_embed", "norm_stats"))


@check("strong_evaluation", PRETRAINED_SED)
def strong_evaluation(fixture: Fixture) -> dict[str, Any]:
    """Frame logits to PSDS1 and pAUROC."""
    wanted, events = fixture.settings, fixture.settings["events"]
    clips, classes = wanted["clips"], wanted["classes"]
    clip = np.array([clips.index(name) for name in events["filename"]])
    known = list(dict.fromkeys((*classes, *events["event_label"])))
    label = np.array([known.index(name) for name in events["event_label"]])
    onset, offset = np.array(events["onset"]), np.array(events["offset"])
    first, last = merge_touching(clip, label, onset, offset)
    starts = np.searchsorted(clip[first], np.arange(len(clips) + 1))
    strong = StrongEvents(tuple(clips), tuple(known), starts, label[first], onset[first], last)
    durations = dict(zip(clips, wanted["durations"]))
    scores = EvaluationScores(strong, durations, classes, wanted["scored"], wanted["median_frames"])
    scores.add(torch.arange(len(clips)), scores.prepare(fixture.tensor("logits").float().mT))
    found = scores.figures()
    values = {name: found[name]["value"] for name in ("psds1_macro", "psds1", "pauroc")}
    return {**values, "psds1_per_class": found["psds1_macro"]["per_class"]}


@check("office", PRETRAINED_SED)
def office(fixture: Fixture) -> dict[str, Any]:
    """Events to frame targets, and frame logits to events and figures."""
    wanted, classes = fixture.settings, fixture.settings["classes"]
    rows = [
        tuple(
            sorted((event["start"] / 1000, event["end"] / 1000, event["label"]) for event in wanted["events_ms"][name])
        )
        for name in wanted["files"]
    ]
    durations = (float(wanted["clip_seconds"]),) * len(rows)
    recordings = Recordings(tuple(map(Path, wanted["files"])), tuple(rows), tuple(classes), durations)
    changed = {name: wanted[name] for name in ("median_ms", "min_duration_ms")}
    settings = finetuning().events.model_copy(update={**changed, "threshold": wanted["threshold_on_logits"]})
    logits = fixture.array("logits").astype(np.float32)
    found = [find_events(of_file.T, classes, settings) for of_file in logits]
    figures = office_figures(found, recordings, draws=0)
    runs = {
        name: {label: runs_of(target) for label, target in zip(classes, recordings.frame_targets(number))}
        for number, name in enumerate(wanted["files"])
    }
    events = {
        name: [
            [label, round(1000 * a, 3), round(1000 * b, 3)] for a, b, label in sorted(own, key=lambda e: (e[2], e[0]))
        ]
        for name, own in zip(wanted["files"], found)
    }
    return {**{name: figures[name]["value"] for name in FIGURES}, "events": events, "target_runs": runs}


def runs_of(target: np.ndarray) -> list[list[int]]:
    """First frame of each run of ones, and frame after its last."""
    changes = np.flatnonzero(np.diff(np.concatenate(([0], target, [0]))))
    return changes.reshape(-1, 2).tolist()

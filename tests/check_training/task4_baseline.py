"""Training fixtures of the DCASE Task 4 baselines (DESED_task): steps, mixing, teacher, rates, labels, objective."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.models.crnn import masked_frames, released_key, score_heads
from common.models.network import ModelOutput
from common.settings import load_settings
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import (
    BatchParts,
    Mixing,
    RateFactor,
    SoundEventTraining,
    compare,
    consistency_weight,
    mix_batch,
    training_targets,
    weigh,
)
from task4_sed.data.annotations import Annotations
from task4_sed.data.clips import GroupSampler
from task4_sed.data.maestro import split_training_windows
from task4_sed.data.sets import split_filenames
from task4_sed.data.targets import EventTargets
from task4_sed.labels import LabelSettings
from task4_sed.losses import teacher_decay, update_teacher
from task4_sed.scoring import Reference, Scored, objective
from tests.check_training.fixtures import Fixture, check
from tests.support.golden_case import drawn_tensor, drawn_waveform
from tests.support.places import ROOT

DESED_TASK = "DCASE-REPO/DESED_task"
SETS = {"maestro": "maestro_train", "strong": "strong", "weak": "weak", "unlabeled": "unlabeled"}


def settings_of(fixture: Fixture, **overrides: Any) -> Task4Settings:
    """The published settings of the year, with the numbers of the fixture in their place."""
    wanted = fixture.settings
    config = "baseline_2023" if wanted.get("recipe") == 2023 else "baseline"
    names = {
        "ramp_epochs": ["teacher.ramp_epochs", "optim.warmup_epochs"], "consistency": ["loss.consistency"],
        "full_weight_from_epoch": ["optim.decay_from_epoch"], "decay_from_epoch": ["optim.decay_from_epoch"],
        "lr": ["optim.lr"], "classes": ["labels.classes"], "epochs": ["trainer.epochs"],
    }  # fmt: skip
    changed = {name: wanted[key] for key, targets in names.items() if key in wanted for name in targets}
    if "consistency_rows" in wanted:
        changed["teacher.maestro"] = "maestro" in wanted["consistency_rows"]
    if "rows" in wanted:
        sizes = {kind: last - first for kind, (first, last) in wanted["rows"].items() if last > first}
        changed["data.batch"] = [{"sets": [SETS[kind]], "clips": size} for kind, size in sizes.items()]
    if isinstance(wanted.get("classes"), list) and len(wanted["classes"]) not in (10, 27):
        changed["postprocessing.median_frames"] = 7
    return load_settings(Task4Settings, ROOT / "task4_sed" / "configs" / f"{config}.yaml", {**changed, **overrides})


def draw(inputs: Mapping[str, Any]) -> Tensor:
    """An input that is given by its name."""
    values = np.random.RandomState(zlib.crc32(inputs["name"].encode())).standard_normal(inputs["shape"])
    plain = torch.from_numpy(values.astype(np.float32)).double()
    rules = {"none": plain, "abs": plain.abs(), "sigmoid(2 x - 2)": (2 * plain - 2).sigmoid()}
    return rules[inputs["rule"]]


def mixings_of(fixture: Fixture) -> list[Mixing]:
    """The draws of the fixture; embeddings without a call of their own are mixed by none."""
    if not fixture.settings["mixed"]:
        return []
    return [
        Mixing((name,), fixture.tensor(f"{name}_mix_weight"), fixture.tensor(f"{name}_mix_partner"))
        for name in fixture.settings["calls"]
    ]


def batch_of(fixture: Fixture) -> dict[str, Tensor]:
    """Inputs and labels before mixing."""
    labels = {name: fixture.tensor(name) for name in ("strong", "weak", "valid")}
    return labels | {name: draw(value) for name, value in fixture.settings.get("inputs", {}).items()}


def losses_of(
    fixture: Fixture, settings: Task4Settings, student: ModelOutput, teacher: ModelOutput, batch: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Total loss with its parts; `student` and `teacher` are outputs of the networks."""
    parts = BatchParts(settings.data.batch, settings.teacher is not None and settings.teacher.maestro)
    weight = consistency_weight(settings, fixture.settings["step"], fixture.settings["steps_per_epoch"])
    losses = compare(student, teacher, dict(batch), parts)
    weighted = weigh(losses, settings.loss, weight)
    total = torch.stack(list(weighted.values())).sum()
    return {"total": total, "parts": weighted, "unweighted": losses, "consistency_weight": weight}


@check("baseline_step", DESED_TASK)
def baseline_step(fixture: Fixture) -> dict[str, Any]:
    """Outputs of student and teacher, and draws, to inputs, targets, losses and gradients."""
    settings = settings_of(fixture)
    mixup = settings.mixup
    assert mixup is not None
    batch = mix_batch(batch_of(fixture), mixings_of(fixture), mixup.weak_labels)
    heads = {
        name: [fixture.tensor(f"{name}_{kind}_logits").requires_grad_() for kind in ("frame", "attention")]
        for name in ("student", "teacher")
    }
    outputs = []
    for logits in heads.values():
        frames, clips = score_heads(*logits, batch["valid"])
        outputs.append(ModelOutput(clips, clips, None, frames))
    found = losses_of(fixture, settings, *outputs, batch)
    gradients = torch.autograd.grad(found["total"], heads["student"])
    strong, weak = training_targets(batch, BatchParts(settings.data.batch, maestro_consistent=False))
    return {
        **found, "gradient_frame_logits": gradients[0], "gradient_attention_logits": gradients[1],
        "strong_target": strong, "weak_target": weak,
        **{name: batch[name] for name in ("magnitude", "embeddings") if name in batch},
    }  # fmt: skip


@check("baseline_whole_step", DESED_TASK)
def baseline_whole_step(fixture: Fixture) -> dict[str, Any]:
    """Waveforms to losses, gradients of all weights, and statistics after the step."""
    wanted, shapes = fixture.settings, fixture.settings["state_dict"]
    settings = settings_of(
        fixture,
        **{"model.dropout": 0.0, "model.dropstep": 0.0, "model.rnn_dim": shapes["rnn.rnn.weight_hh_l0"][1]},
        embeddings="cached" if "embeddings" in wanted.get("inputs", {}) else "none",
    )
    module = SoundEventTraining(settings).train()
    assert module.teacher is not None and settings.mixup is not None
    for role, network in (("student", module.student), ("teacher", module.teacher)):
        drawn = {name: drawn_tensor(f"task4_baseline/{role}/{name}", tuple(shape)) for name, shape in shapes.items()}
        network.load_state_dict({released_key(name): torch.from_numpy(value) for name, value in drawn.items()})
    sound = [drawn_waveform(name, wanted["num_samples"], wanted["sample_rate"]) for name in wanted["waveforms"]]
    batch = {name: value.float() if value.is_floating_point() else value for name, value in batch_of(fixture).items()}
    batch["magnitude"] = module.front_end.magnitude(torch.from_numpy(np.stack(sound)))
    batch = mix_batch(batch, mixings_of(fixture), settings.mixup.weak_labels)
    student, teacher = module.score(batch)
    found = losses_of(fixture, settings, student, teacher, batch)
    found["total"].backward()
    gradients = {name: parameter.grad for name, parameter in module.student.named_parameters()}
    after = {"after": module.student.state_dict(), "teacher_after": module.teacher.state_dict()}
    for name, output in (("student", student), ("teacher", teacher)):
        found[f"{name}_strong"] = output.frame_logits.mT.sigmoid()[..., wanted["frames"]]
        found[f"{name}_weak"] = output.logits.sigmoid()
    for name in fixture.expected:
        kind, _, key = name.partition("/")
        if kind == "gradient_norms":
            found[name] = gradients[released_key(key)].norm()
        elif kind == "gradient":
            found[name] = gradients[released_key(key)]
        elif kind in after:
            found[name] = after[kind][released_key(key)]
    return found


@check("baseline_teacher", DESED_TASK)
def baseline_teacher(fixture: Fixture) -> dict[str, Any]:
    """Averages of a sequence of students."""
    decay = fixture.settings["decay"]
    wanted = fixture.content["expected"]
    students = fixture.tensor("students")
    counted = torch.arange(len(wanted["teachers_of_students_0_1_2"]), dtype=torch.float64)[:, None]
    return {
        "decay_of_step": {step: teacher_decay(int(step), decay) for step in wanted["decay_of_step"]},
        "teachers": torch.stack(averages(students, fixture.tensor("teacher_before"), decay)),
        "teachers_of_students_0_1_2": torch.cat(averages(counted, torch.zeros(1, dtype=torch.float64), decay)),
    }


def averages(students: Tensor, teacher: Tensor, decay: float) -> list[Tensor]:
    """The teacher after each update."""
    network, follower = nn.Module(), nn.Module()
    network.weight, follower.weight = nn.Parameter(students[0]), nn.Parameter(teacher, requires_grad=False)
    after = []
    for step, values in enumerate(students):
        network.weight.data = values
        update_teacher(follower, network, teacher_decay(step, decay), statistics=False)
        after.append(follower.weight.detach().clone())
    return after


@check("baseline_schedule", DESED_TASK)
def baseline_schedule(fixture: Fixture) -> dict[str, Any]:
    """Steps of an epoch, learning rate and weight of the consistency loss."""
    wanted = fixture.settings
    sizes = [sum(wanted["set_sizes"][name] for name in group) for group in wanted["groups"]]
    settings = settings_of(fixture)
    steps = len(GroupSampler(sizes, wanted["batch"], seed=0))
    total = steps * wanted["epochs"]
    factor = RateFactor.of(settings, steps, total)
    expected = fixture.content["expected"]
    return {
        "steps_per_epoch": steps,
        "total_steps": total,
        "rate_of_step": {step: settings.optim.lr * factor(int(step)) for step in expected["rate_of_step"]},
        "consistency_weight_of_step": {
            step: consistency_weight(settings, int(step), steps) for step in expected["consistency_weight_of_step"]
        },
    }


@check("labels", DESED_TASK)
def labels(fixture: Fixture) -> dict[str, Any]:
    """Tables of labels to targets on the frame grid."""
    wanted = fixture.settings
    settings = LabelSettings(
        classes=wanted["classes"], overlap=wanted["overlap"], dog_in_maestro=wanted.get("dog_in_maestro", False),
        maestro_to_desed=bool(wanted["maestro_to_desed"]), desed_to_maestro=bool(wanted["desed_to_maestro"]),
    )  # fmt: skip
    found: dict[str, Any] = {}
    sets = {}
    for domain in ("maestro", "desed"):
        if domain in wanted["tables"]:
            table = pd.DataFrame(wanted["tables"][domain])
            names = list(dict.fromkeys(table["filename"]))
            events = table.assign(clip=table["filename"].map(names.index))
            sets[domain] = names, EventTargets(len(names), events, domain, settings)
            found[f"valid_{domain}"] = sets[domain][1].valid
    for clip in wanted["clips"]:
        names, targets = sets[clip["domain"]]
        row = np.array([names.index(clip["filename"])])
        found[clip["array"].removeprefix("expected_")] = targets.gather(row, np.array([clip["crop_start"]])).strong[0]
    if "weak" in wanted["tables"]:
        table = pd.DataFrame(wanted["tables"]["weak"])
        rows = table["event_labels"].str.split(",").explode()
        events = pd.DataFrame({"clip": rows.index, "event_label": rows.to_numpy(), "onset": np.nan, "offset": np.nan})
        found["weak"] = EventTargets(len(table), events, "desed", settings).gather(np.arange(len(table))).weak
    return found


@check("data_splits", DESED_TASK)
def data_splits(fixture: Fixture) -> dict[str, Any]:
    """Clips that are held out for validation."""
    share, seed = fixture.settings["share"], fixture.settings["seed"]
    weak, windows = fixture.settings["weak_filenames"], fixture.settings["maestro_windows"]
    training = split_filenames(weak, share, seed)
    chosen = split_training_windows(windows, share, seed)
    return {
        "weak_validation": sorted(set(weak) - training),
        "maestro_validation_windows": sorted(name for name, kept in zip(windows, chosen) if not kept),
    }


@check("dropstep", DESED_TASK)
def dropstep(fixture: Fixture) -> dict[str, Any]:
    """Masked stretches of frames."""
    cases = []
    for case in fixture.content["expected"]["cases"]:
        uniform = (torch.tensor(case[name], dtype=torch.float64) for name in ("uniform_width", "uniform_start"))
        first, last = masked_frames(*uniform, case["frames"], case["most_frames"], case["largest_share"])
        pairs = zip(first.tolist(), last.tolist())
        cases.append({**case, "zero": [[start, end] if end > start else None for start, end in pairs]})
    return {"cases": cases}


@check("validation_objective", DESED_TASK)
def validation_objective(fixture: Fixture) -> dict[str, Any]:
    """The sum of F1 values that chooses the checkpoint."""
    wanted = fixture.settings
    classes = wanted["classes"]
    settings = settings_of(fixture, **{"postprocessing.median_frames": dict(zip(classes, wanted["median_frames"]))})
    weak, targets = fixture.array("weak_scores"), fixture.array("weak_targets")
    scored, references = {}, []
    for name, part in (("synthetic_validation", "synthetic"), ("maestro_train", "maestro")):
        files = wanted["synthetic_clips" if part == "synthetic" else "maestro_windows"]
        seconds = wanted["synthetic_duration"] if part == "synthetic" else 10.0
        frames = fixture.array(f"{part}_scores")
        clip_scores = np.zeros((len(files), len(classes)), dtype=np.float32)
        scored[name] = [Scored(files, [seconds] * len(files), frames, clip_scores, clip_scores)]
        references.append(Reference(name, annotations(wanted[part], files), dict.fromkeys(map(stem, files), seconds)))
    scored["weak"] = [
        Scored([f"{row}.wav" for row in range(len(weak))], [10.0] * len(weak), weak[:, None], weak, targets)
    ]
    references.append(Reference("weak", references[0].annotations, {}))
    return objective(scored, references, settings)


def annotations(table: Mapping[str, Any], files: list[str]) -> Annotations:
    """Events of a fixture."""
    events = pd.DataFrame(table).rename(columns={"filename": "clip"}).assign(line=0)
    events["clip"] = events["clip"].map(stem)
    return Annotations(events, tuple(map(stem, files)), "fixture")


def stem(filename: str) -> str:
    """A file name without its ending."""
    return filename.removesuffix(".wav")

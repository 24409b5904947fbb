"""Training fixtures of the system that won DCASE 2024 Task 4 (cpjku_dcase24): steps, views, teacher, labels, rates."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.features.augment import mix_statistics, wavmix
from common.features.front_ends import DesedMel, KaldiLogMel
from common.models.crnn import Crnn, released_key, score_heads
from common.models.frame_prediction import SequenceModel
from common.models.network import ModelOutput
from common.registry.models import create_front_end, create_model, find_architecture, find_network
from common.settings import load_settings
from common.training.schedules import WarmupCosine
from task4_sed.augment import Mixture, band_gains, blank, colour, warp_frequency
from task4_sed.data.targets import valid_classes
from task4_sed.iterations.network import TransformerCrnn, make_optimizer
from task4_sed.iterations.settings import StageSettings, TwoIterations
from task4_sed.iterations.train import Scores, StageTraining, compare, compare_with_teacher, consistency_weight, weigh
from task4_sed.iterations.views import (
    SPECTROGRAMS,
    Augmenter,
    Draws,
    Features,
    Rows,
    Targets,
    Views,
    spectrogram_frames,
)
from task4_sed.losses import teacher_decay, update_teacher
from task4_sed.scores.store import mean_logits, sigmoid
from task4_sed.scores.tables import median_filter
from task4_sed.scoring import make_score_tables
from task4_sed.systems import AnySystem
from tests.check_training.fixtures import Fixture, check
from tests.check_training.task4_baseline import draw, labels
from tests.support.golden_case import drawn_tensor, drawn_waveform
from tests.support.places import ROOT

WINNER = "CPJKU/cpjku_dcase24"
CONFIG = ROOT / "task4_sed" / "configs" / "two_iterations.yaml"
STEP = {
    "weights": "loss.weights", "scale": "loss.scale", "frame_divisor": "loss.frame_divisor",
    "clip_divisor": "loss.clip_divisor", "ramp_steps": "consistency.ramp_steps",
    "ramp_limit": "consistency.ramp_limit", "interpolation": "consistency.interpolation",
    "interpolation_divisor": "consistency.interpolation_divisor",
    "class_mask_in_consistency": "consistency.masked", "clip_consistency_on_maestro": "consistency.weak_on_maestro",
}  # fmt: skip
"""Settings of a fixture that are settings of a stage."""


@cache
def published() -> TwoIterations:
    """The recipe as published."""
    return load_settings(AnySystem, CONFIG)


def stage_of(fixture: Fixture) -> StageSettings:
    """The published settings of a training, with the numbers of the fixture in their place."""
    wanted = fixture.settings
    stage = published().stage(wanted["transformer"], wanted["iteration"], wanted["stage"])
    changed = stage.model_dump()
    changed["batch"] = {kind: last - first for kind, (first, last) in wanted["rows"].items()}
    for theirs, ours in STEP.items():
        *groups, name = ours.split(".")
        if theirs in wanted:
            group = changed
            for inner in groups:
                group = group[inner]
            group[name] = wanted[theirs]
    return StageSettings(**changed)


def mixture_of(fixture: Fixture, names: str = "mix_{}") -> Mixture:
    """A mixture that the fixture draws; its partners are rows of the batch."""
    return Mixture(fixture.tensor(names.format("weight")), fixture.tensor(names.format("partner")))


def targets_of(fixture: Fixture, inputs: Mapping[str, Tensor]) -> Targets:
    """Labels before mixing."""
    pseudo = fixture.tensor("pseudo") if "pseudo" in fixture.arrays else inputs.get("pseudo")
    return Targets(fixture.tensor("strong"), fixture.tensor("weak"), fixture.tensor("valid", None), pseudo)


def inputs_of(fixture: Fixture) -> dict[str, Tensor]:
    """Inputs that are given by their names."""
    return {name: draw(given) for name, given in fixture.settings.get("inputs", {}).items()}


def augmenter_of(stage: StageSettings, rows: Rows) -> Augmenter:
    """The augmenter of a training; its front ends are not used."""
    settings = stage.augment.model_copy(update={"impulse_responses": None})
    return Augmenter(settings, rows, DesedMel(), nn.Identity(), 1.0, stage.consistency.teacher_hears)


def named_targets(targets: Targets, rows: Rows, every: int = 1) -> dict[str, Tensor]:
    """Targets under the names of the fixtures."""
    found = {"strong_target": targets.strong[rows.labelled], "weak_target": targets.weak[rows.kinds["weak"]]}
    return found if targets.pseudo is None else found | {"pseudo_target": targets.pseudo[..., ::every]}


def under_masks(frame_logits: Tensor, attention_logits: Tensor) -> Scores:
    """The output of two heads under a mask."""

    def score(mask: Tensor | None) -> ModelOutput:
        frames, clips = score_heads(frame_logits, attention_logits, mask)
        return ModelOutput(clips, clips, None, frames)

    return score


def named_losses(losses: Mapping[str, Tensor], stage: StageSettings, step: int) -> dict[str, Any]:
    """Total, parts and unweighted values under the names of the fixtures."""
    parts = weigh(losses, stage.loss, stage.consistency, step)
    unweighted: dict[str, Any] = {}
    for name, value in losses.items():
        group, _, rest = name.partition("_")
        unweighted |= {group: {**unweighted.get(group, {}), rest: value}} if rest else {name: value}
    weight = consistency_weight(stage.loss, stage.consistency, step)
    return {
        "total": torch.stack(list(parts.values())).sum(), "parts": parts, "unweighted": unweighted,
        "consistency_weight": weight,
    }  # fmt: skip


@check("training_step", WINNER)
def training_step(fixture: Fixture) -> dict[str, Any]:
    """Outputs of student and teacher to losses and gradients."""
    stage = stage_of(fixture)
    rows = Rows(stage.batch)
    mixture = mixture_of(fixture) if fixture.settings["mixed"] else None
    nothing = torch.zeros(rows.count, 1, 2, 1)
    targets = targets_of(fixture, {})
    mixed = augmenter_of(stage, rows).views(Features(nothing, nothing), targets, Draws(mixture=mixture)).targets
    heads = {
        name: [fixture.tensor(f"{name}_{kind}_logits").requires_grad_() for kind in ("frame", "attention")]
        for name in ("student", "teacher")
    }
    student, teacher = (under_masks(*logits) for logits in heads.values())
    desed = torch.from_numpy(valid_classes("desed", published().labels))
    losses = compare(student, mixed, rows)
    losses |= compare_with_teacher(student, teacher, mixed, mixture, rows, stage.consistency, desed)
    found = named_losses(losses, stage, fixture.settings["step"])
    gradients = torch.autograd.grad(found["total"], heads["student"], allow_unused=True)
    norms = {
        f"gradient_norm_{kind}_logits": gradient.norm() for kind, gradient in zip(("frame", "attention"), gradients)
    }  # fmt: skip
    return {
        **found, **norms, "valid": mixed.valid, **named_targets(mixed, rows),
        "gradient_frame_logits": gradients[0], "gradient_attention_logits": gradients[1],
    }  # fmt: skip


@check("views", WINNER)
def views(fixture: Fixture) -> dict[str, Any]:
    """Features and draws to inputs of student and teacher."""
    wanted, stage = fixture.settings, stage_of(fixture)
    rows, inputs, order = Rows(stage.batch), inputs_of(fixture), fixture.settings["order"]
    drawn, mask = wanted["draws"], wanted["draws"].get("time_mask")
    styles = {name: mixture_of(fixture, f"style_{{}}_{name}") for name in SPECTROGRAMS if "mixstyle" in order}
    filters: dict[str, dict[str, Tensor]] = {"student": {}, "teacher": {}}
    for name in fixture.arrays:
        if name.startswith("filter_db_"):
            which = name.removeprefix("filter_db_")
            role, spectrogram = (which, "magnitude") if which in filters else ("student", which)
            filters[role][spectrogram] = fixture.tensor(name)
    draws = Draws(
        stretch=(mask["first"], mask["first"] + mask["width"]) if mask else None,
        mixture=mixture_of(fixture) if "mixup" in order else None,
        styles=styles,
        crops=tuple((slice(*crop["rows"]), crop["first"], crop["kept"]) for crop in drawn.get("frequency_warp", ())),
        filters=filters["student"],
        teacher_filters=filters["teacher"],
    )
    features = Features(inputs["magnitude"], inputs["log_mel"])
    made = augmenter_of(stage, rows).views(features, targets_of(fixture, inputs), draws)
    found = named_targets(made.targets, rows, wanted["pseudo_target_every"])
    for role, heard in (("student", made.student), ("teacher", made.teacher)):
        found[f"{role}_valid"] = made.targets.valid
        for name in SPECTROGRAMS:
            found[f"{role}_{name}"] = getattr(heard, name)[..., wanted[f"frames_of_{name}"]]
    return found


@check("whole_step", WINNER)
def whole_step(fixture: Fixture) -> dict[str, Any]:
    """Waveforms to losses, gradients of all weights, and statistics after the step."""
    wanted, stage = fixture.settings, stage_of(fixture)
    inputs, network = inputs_of(fixture), wanted["network"]
    module = StageTraining.__new__(StageTraining)
    nn.Module.__init__(module)
    module.stage, module.rows, module.front_end = stage, Rows(stage.batch), DesedMel()
    module.desed_classes = torch.from_numpy(valid_classes("desed", published().labels))
    for role in ("student", "teacher"):
        crnn = Crnn(
            27, network["embedding_size"], network["aggregation"], gate=network["activation"], dropout=0.0,
            dropstep=0.0, rnn_dim=network["rnn_cells"], num_rnn_layers=network["rnn_layers"],
            fusion_dim=network["fusion"],
        )  # fmt: skip
        state = {
            released_key(name): torch.from_numpy(drawn_tensor(f"task4/{role}/{name}", tuple(shape)))
            for name, shape in wanted["state_dict"].items()
        }
        crnn.load_state_dict(state)
        setattr(module, role, TransformerCrnn(crnn, StandIn(), None, frozen=True))
    module.double().train()
    sound = [drawn_waveform(name, wanted["num_samples"], wanted["sample_rate"]) for name in wanted["waveforms"]]
    magnitude = module.front_end.magnitude(torch.from_numpy(np.stack(sound)).double())
    # The embeddings are mixed like a spectrogram; the stand-in hands them on.
    features = Features(magnitude, inputs["embeddings"][:, None])
    targets = targets_of(fixture, inputs)
    curves = {role: {"magnitude": fixture.tensor(f"filter_db_{role}")} for role in ("student", "teacher")
              if f"filter_db_{role}" in fixture.arrays}  # fmt: skip
    draws = Draws(
        mixture=mixture_of(fixture) if wanted["mixed"] else None,
        filters=curves.get("student", {}), teacher_filters=curves.get("teacher", {}),
    )  # fmt: skip
    made: Views = augmenter_of(stage, module.rows).views(features, targets, draws)
    student, teacher = module.scores(made)
    found = named_losses(module.terms(student, teacher, made), stage, wanted["step"])
    found["total"].backward()
    valid = made.targets.valid
    compared = valid if stage.consistency.masked else None
    asked = (("student", student, None, valid), ("teacher", teacher, compared, compared))
    for name, scores, of_frames, of_clips in asked:
        found[f"{name}_strong"] = scores(of_frames).frame_logits.mT.sigmoid()[..., wanted["frames"]]
        found[f"{name}_weak"] = scores(of_clips).logits.sigmoid()
    gradients = {name: parameter.grad for name, parameter in module.student.crnn.named_parameters()}
    after = module.student.crnn.state_dict()
    for name in fixture.expected:
        kind, _, key = name.partition("/")
        if kind == "gradient_norms":
            found[name] = gradients[released_key(key)].norm()
        elif kind in ("gradient", "after"):
            found[name] = (gradients if kind == "gradient" else after)[released_key(key)]
    return found


class StandIn(SequenceModel):
    """In place of a transformer: its spectrogram is the sequence."""

    def forward(self, log_mel: Tensor) -> Tensor:
        """(batch, 1, tokens, dim) to (batch, tokens, dim)."""
        return log_mel.squeeze(1)


@check("teacher_average", WINNER)
def teacher_average(fixture: Fixture) -> dict[str, Any]:
    """Averages of a sequence of students."""
    decay, expected = fixture.settings["decay"], fixture.content["expected"]
    first = StageTraining.updates_counted_from
    counted = torch.arange(len(expected["teachers_of_students_0_1_2"]), dtype=torch.float64)[:, None]

    def averages(students: Tensor, teacher: Tensor) -> Tensor:
        network, follower = nn.Module(), nn.Module()
        network.weight, follower.weight = nn.Parameter(students[0]), nn.Parameter(teacher, requires_grad=False)
        after = []
        for step, values in enumerate(students):
            network.weight.data = values
            update_teacher(follower, network, teacher_decay(step, decay, first), statistics=False)
            after.append(follower.weight.detach().clone())
        return torch.stack(after)

    return {
        "decay_of_update": {step: teacher_decay(int(step), decay, first) for step in expected["decay_of_update"]},
        "teachers": averages(fixture.tensor("students"), fixture.tensor("teacher_before")),
        "teachers_of_students_0_1_2": averages(counted, torch.zeros(1, dtype=torch.float64))[:, 0],
    }


@check("filter", WINNER)
def filters(fixture: Fixture) -> dict[str, Tensor]:
    """Gains at borders to a filtered spectrogram."""
    curve = band_gains(fixture.tensor("gains_db"), fixture.tensor("borders", None))
    return {"curve_db": curve, "spectrogram": colour(fixture.tensor("spectrogram"), curve)}


@check("frequency_warp", WINNER)
def frequency_warp(fixture: Fixture) -> dict[str, Tensor]:
    """A part of the mels to all of them."""
    wanted = fixture.settings
    return {"spectrogram": warp_frequency(fixture.tensor("spectrogram"), wanted["first"], wanted["kept"])}


@check("mixstyle", WINNER)
def mixstyle(fixture: Fixture) -> dict[str, Tensor]:
    """Statistics of two clips mixed."""
    return {"spectrogram": mix_statistics(fixture.tensor("spectrogram"), *mixture_of(fixture, "{}"))}


@check("wavmix", WINNER)
def waveforms(fixture: Fixture) -> dict[str, Tensor]:
    """Clips and their partners mixed."""
    everything = {"waveform": "waveforms", "strong": "strong", "pseudo": "pseudo"}
    rows, partner = fixture.tensor("clip", None), fixture.tensor("partner", None)
    drawn = fixture.tensor("drawn")
    batch = {name: fixture.tensor(array)[rows] for name, array in everything.items()}
    others = {name: fixture.tensor(array)[partner] for name, array in everything.items()}
    wavmix(batch, others, torch.arange(len(rows)), torch.maximum(drawn, 1 - drawn))
    return batch


@check("time_mask", WINNER)
def time_mask(fixture: Fixture) -> dict[str, Any]:
    """Masked frames of labels and spectrograms."""
    wanted, cases = fixture.settings, []
    lengths = {"spectrogram": ("magnitude", wanted["spectrogram_frames"])}
    lengths |= {f"log_mel_{frames}": ("log_mel", frames) for frames in wanted["log_mel_frames"]}
    for case in fixture.content["expected"]["cases"]:
        first, last = case["first"], case["first"] + case["width"]
        zero = {"labels": zeros(blank(torch.ones(1, wanted["label_frames"]), first, last))}
        for key, (name, frames) in lengths.items():
            values = torch.ones(1, frames)
            zero[key] = zeros(blank(values, *spectrogram_frames(name, values, first, last)))
        cases.append({**case, "zero": zero})
    kept = published().stage("atst", 2, 2).augment.time_mask
    assert kept is not None
    return {"cases": cases, "pseudo_labels": "unchanged" if kept.pseudo_labels == "kept" else "masked"}


def zeros(values: Tensor) -> list[int]:
    """First zero, and the index after the last."""
    found = (values[0] == 0).nonzero().squeeze(1)
    return [int(found[0]), int(found[-1]) + 1]


check("labels", WINNER)(labels)


@check("pseudo_labels", WINNER)
def pseudo_labels(fixture: Fixture) -> dict[str, np.ndarray]:
    """Logits of several models to pseudo-labels."""
    mean = mean_logits(list(fixture.array("logits")))
    return {"mean_logits": mean, "pseudo": sigmoid(mean)}


@check("class_wise_median", WINNER)
def class_wise_median(fixture: Fixture) -> dict[str, np.ndarray]:
    """Filtered scores of one clip."""
    classes = fixture.settings["classes"]
    lengths = dict(zip(classes, fixture.settings["frames"]))
    if classes == published().labels.classes:
        assert published().postprocessing.median_frames == lengths
    scores = fixture.array("scores")
    tables = make_score_tables(["clip"], scores[None], [10.0], classes)
    return {"scores": median_filter(tables, lengths).scores_of(0)}


@check("learning_rates", WINNER)
def learning_rates(fixture: Fixture) -> dict[str, Any]:
    """Peak rate and weight decay of every weight."""
    wanted, names = fixture.settings, fixture.content["expected"]["parameters"]
    own = published().transformers[wanted["transformer"]]
    architecture = find_architecture(own.model)
    with torch.device("meta"):
        encoder = create_model(architecture.name).model
        network = TransformerCrnn(Crnn(embedding_dim=8, fusion_dim=8, gate="cg"), encoder, None, frozen=False)
    optim = published().stage(wanted["transformer"], 2, 2).optim
    rates = {name: wanted[name] for name in ("cnn_lr", "rnn_lr", "transformer_lr", "layer_decay", "weight_decay")}
    optim = optim.model_copy(update={**rates, "name": wanted["optimizer"]})
    found = {}
    groups = make_optimizer(network, optim).param_groups
    for name, parameter in network.named_parameters():
        for group in groups:
            if any(parameter is member for member in group["params"]):
                found[name] = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    read = find_network(architecture.network).released_key
    parameters = {}
    for official, expected in names.items():
        if expected["group"] == "transformer":
            name = "transformer." + str(read(official)).removeprefix("model.")
        else:
            name = f"crnn.{released_key(official)}"
        unused = official.endswith("mask_embed") or (
            "relative_attention_bias" in official and ".layers.0." not in official
        )  # fmt: skip
        parameters[official] = {**expected, **({} if unused and name not in found else found[name])}
    return {"parameters": parameters, "in_no_group": fixture.content["expected"].get("in_no_group")}


@check("schedules", WINNER)
def schedules(fixture: Fixture) -> dict[str, Any]:
    """Factor of the rate and weight of the consistency in a step."""
    rates, weights = [], []
    for case in fixture.content["expected"]["learning_rate"]:
        factor = WarmupCosine(case["warmup_steps"], case["total_steps"])
        rates.append({**case, "factor_of_step": {step: factor(int(step)) for step in case["factor_of_step"]}})
    stage = published().stage("atst", 1, 1)
    for case in fixture.content["expected"].get("consistency", []):
        ramp = {"ramp_steps": case["ramp_steps"], "ramp_limit": case["ramp_limit"]}
        consistency = stage.consistency.model_copy(update=ramp)
        own = stage.loss.weights.model_copy(update={"consistency": case["weight"]})
        loss = stage.loss.model_copy(update={"weights": own})
        of_step = {step: consistency_weight(loss, consistency, int(step)) for step in case["weight_of_step"]}
        weights.append({**case, "weight_of_step": of_step})
    return {"learning_rate": rates, "consistency": weights}


@check("fpasst_mel_edges", WINNER)
def fpasst_mel_edges(fixture: Fixture) -> dict[str, Any]:
    """Features for given mel edges, and the edges of each training."""
    given = fixture.settings["waveform"]
    waveform = torch.from_numpy(drawn_waveform(given["name"], given["num_samples"], given["sample_rate"]))[None]
    found: dict[str, Any] = {}
    for case in fixture.settings["cases"]:
        edges = {"f_min": float(case["f_min"]), "f_max": float(case["f_max"])}
        features = create_front_end("fpasst", **edges).eval()(waveform)[0, 0]
        found[case["array"].removeprefix("expected_")] = features[:, :: fixture.settings["every_frame"]]
    found["edges"] = []
    for case in fixture.content["expected"]["edges"]:
        if case["iteration"] == "code defaults":  # no command of this training was published, and no setting is left
            front_end = create_front_end("fpasst", f_max=7500.0, f_min_jitter=10, f_max_jitter=1000)
        else:
            stage = published().stage("fpasst", case["iteration"], case["stage"])
            front_end = create_front_end(published().transformers["fpasst"].model, **stage.front_end)
        assert isinstance(front_end, KaldiLogMel)
        found["edges"].append({**case, **ranges_of(front_end.draw_edges, front_end)})
    return found


def ranges_of(draw_edges: Callable[[], tuple[float, float]], front_end: KaldiLogMel) -> dict[str, Any]:
    """Lowest and highest edges of many draws, and those of the evaluation."""
    front_end.generator = torch.Generator().manual_seed(0)
    low, high = ([int(edge) for edge in edges] for edges in zip(*(draw_edges() for _ in range(30_000))))
    return {
        "training": {"f_min": [min(low), max(low)], "f_max": [min(high), max(high)]},
        "evaluation": {"f_min": int(front_end.f_min), "f_max": int(front_end.f_max)},
    }

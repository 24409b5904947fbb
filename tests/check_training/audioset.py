"""Checks of the trainings of AudioSet tagging: MN and DyMN (EfficientAT) and PaSST."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.audioset.data import DrawSampler, change_waveforms, class_balance_weights, mix_waveforms
from common.audioset.losses import tagging_loss, teacher_probabilities
from common.audioset.networks import network_options
from common.audioset.recipe import training_loader
from common.audioset.settings import FineTuneSettings, OptimSettings, PretrainSettings, TaggingSettings
from common.audioset.train import (
    make_optimizer,
    mix_batch,
    rate_factor,
    takes_average,
)
from common.data.loading import EpochDraws
from common.features.augment import cover
from common.features.front_ends import KaldiLogMel
from common.models.dynamic_mobilenet import DynamicMobileNet
from common.models.passt import PaSST, Patchout
from common.registry.models import create_front_end, create_model
from common.settings import load_settings
from common.training.trainer import update_average
from tests.check_training.fixtures import Fixture, check
from tests.support.golden_case import drawn_waveform

MN, PASST = "fschmid56/EfficientAT", "kkoutini/PaSST"
CONFIGS = Path(__file__).parents[2] / "common/audioset/configs"


def published(name: str) -> TaggingSettings:
    """Settings of a file in configs/."""
    path = CONFIGS / f"{name}.yaml"
    fine_tuning = path.stem.partition("_")[0] in ("esc50", "fsd50k", "openmic", "table")
    return load_settings(FineTuneSettings if fine_tuning else PretrainSettings, path)


@check("training_step", MN)
@check("training_step", PASST)
def training_step(fixture: Fixture) -> dict[str, Any]:
    """Mixed spectrogram, loss with its shares, and the gradient at the logits."""
    wanted, spectrogram = fixture.settings, fixture.tensor("spectrogram")
    logits = fixture.tensor("logits").requires_grad_()
    ones = torch.ones_like(fixture.tensor("target"))
    targets = {"target": fixture.tensor("target"), "weight": ones}
    label_weight = wanted["label_weight"] if wanted["teacher"] else None
    if wanted["teacher"]:
        probabilities = teacher_probabilities(fixture.tensor("teacher_logits", None), wanted["temperature"])
        targets |= {"teacher_target": probabilities.double(), "teacher_weight": ones[:, :1]}
    if wanted["mixup"]:
        drawn = fixture.tensor("mix_drawn")
        weight = torch.maximum(drawn, 1 - drawn)
        spectrogram, targets = mix_batch(spectrogram, targets, weight, fixture.tensor("mix_partner"))
    parts = tagging_loss(logits, targets, label_weight=label_weight)
    parts["loss"].backward()
    shares: dict[str, Any] = {}
    if label_weight is not None:
        shares["label_share"] = label_weight * parts["labels"].item()
        shares["teacher_share"] = (1 - label_weight) * parts["teacher"].item()
    return {"loss": parts["loss"].item(), **shares, "spectrogram": spectrogram, "gradient_logits": logits.grad}


@check("view", MN)
@check("view", PASST)
def view(fixture: Fixture) -> dict[str, Tensor]:
    """Spectrogram in training: roll, mel edges, masks."""
    wanted = fixture.settings
    sound = [drawn_waveform(name, wanted["num_samples"], wanted["sample_rate"]) for name in wanted["waveforms"]]
    waveform = torch.from_numpy(np.stack(sound))
    rolled = change_waveforms(waveform, torch.zeros(len(waveform)), torch.tensor(wanted["shift"]))
    front_end = create_front_end("passt_s_swa" if PASST in fixture.source else "mn10").train()
    assert isinstance(front_end, KaldiLogMel)
    front_end.draw_edges = lambda: tuple(wanted["mel_edges"])  # type: ignore[method-assign]

    def mask(log_mel: Tensor) -> Tensor:
        for name, dim in (("frequency_mask", -2), ("time_mask", -1)):
            if wanted[name] is not None:
                first, width = torch.tensor(wanted[name])[:, None].unbind(-1)
                log_mel = cover(log_mel, first, width, dim)
        return log_mel

    front_end.mask = mask
    numbers = [int(word.rstrip("rdthsn")) for word in wanted["cells"].split() if word[0].isdigit()]
    mels, frames, first = numbers
    return {"spectrogram": front_end(rolled)[..., first::mels, first::frames]}


@check("waveforms", MN)
@check("waveforms", PASST)
def waveforms(fixture: Fixture) -> dict[str, Tensor]:
    """Gain, roll and wavmix of clips and their partners."""

    def read(which: str) -> dict[str, Any]:
        rows = fixture.tensor(which, None)
        decibels, shift = fixture.tensor(f"gain_db_{which}"), fixture.tensor(f"shift_{which}")
        target = fixture.tensor("targets")[rows]
        waveform = change_waveforms(fixture.tensor("waveforms")[rows], decibels.double(), shift)
        return {"waveform": waveform, "target": target, "weight": torch.ones_like(target)}

    batch = read("clip")
    mix_waveforms(batch, read("partner"), torch.arange(len(batch["target"])), fixture.tensor("drawn"))
    return {"waveform": batch["waveform"], "target": batch["target"]}


def optim(case: dict[str, Any]) -> OptimSettings:
    """The schedule of a fixture as settings."""
    return OptimSettings(**{key: case[key] for key in ("warmup", "down_start", "down_length", "floor")})


@check("schedule", MN)
@check("schedule", PASST)
def schedule(fixture: Fixture) -> dict[str, Any]:
    """Factor of the learning rate in epochs."""
    cases = zip(fixture.settings["cases"], fixture.content["expected"]["factors"], strict=True)
    return {"factors": [{epoch: rate_factor(optim(case))(int(epoch)) for epoch in wanted} for case, wanted in cases]}


@check("dymn_temperature", MN)
def dymn_temperature(fixture: Fixture) -> dict[str, Any]:
    """Kernel temperature while an epoch is trained, and after the last one."""
    found = []
    for case, wanted in zip(fixture.settings["cases"], fixture.content["expected"]["temperatures"], strict=True):
        with torch.device("meta"):
            network = create_model("dymn04", **{key: case[key] for key in case if key != "epochs"})
        assert isinstance(network, DynamicMobileNet)

        def temperature(epoch: int, network: DynamicMobileNet = network) -> float:
            network.start_epoch(epoch)
            return network.layers[0].depth_conv.temperature

        found.append(
            {"in_epoch": {epoch: temperature(int(epoch)) for epoch in wanted["in_epoch"]},
             "left_with": temperature(case["epochs"] - 1)}
        )  # fmt: skip
    return {"temperatures": found}


@check("sampler_weights", MN)
@check("sampler_weights", PASST)
def sampler_weights(fixture: Fixture) -> dict[str, np.ndarray]:
    """Sampling weight of each clip."""
    return {"weights": class_balance_weights(fixture.array("targets"), fixture.settings["offset"])}


@check("patchout", PASST)
def patchout(fixture: Fixture) -> dict[str, Tensor]:
    """Tokens of patches for a draw of patchout."""
    patches, time = fixture.tensor("patches"), fixture.tensor("time_new_pos_embed")
    network = PaSST(
        2, fstride=1, tstride=1, input_fdim=patches.shape[2], input_tdim=time.shape[-1], embed_dim=patches.shape[1],
        depth=1, num_heads=1,
    ).double()  # fmt: skip
    for name in ("time_new_pos_embed", "freq_new_pos_embed", "cls_token", "dist_token", "new_pos_embed"):
        network.get_parameter(name).data.copy_(fixture.tensor(name))
    kept = [fixture.tensor(f"kept_{name}", None) for name in ("columns", "rows", "of_sequence")]
    return {"tokens": network.join_tokens(patches, Patchout(fixture.settings["time_offset"], *kept))}


@check("swa", PASST)
def swa(fixture: Fixture) -> dict[str, Any]:
    """Epochs before which weights are averaged, their mean, and the learning rate."""
    wanted = fixture.settings
    settings = optim(wanted["ramp"]).model_copy(update={"lr": wanted["peak"]})
    settings = OptimSettings(**{**settings.model_dump(), "swa": {"start": wanted["start"], "every": wanted["every"]}})
    weights_in = fixture.tensor("weights_at_start_of_epoch")
    average, network = (torch.nn.ParameterList([torch.zeros_like(weights_in[0])]) for _ in range(2))
    epochs, averages = [], []
    for epoch, weights in enumerate(weights_in):
        network[0].data.copy_(weights)
        if takes_average(settings, epoch):
            update_average(average, network, len(epochs) / (len(epochs) + 1))
            epochs.append(epoch)
            averages.append(average[0].detach().clone())
    rates = {epoch: settings.lr * rate_factor(settings)(int(epoch)) for epoch in fixture.content["expected"]["rates"]}
    return {"epochs_averaged": epochs, "average": torch.stack(averages), "rates": rates}


@check("optimiser_steps", MN)
@check("optimiser_steps", PASST)
def optimiser_steps(fixture: Fixture) -> dict[str, Tensor]:
    """Weights after each step of the optimiser."""
    wanted = fixture.settings
    name = "adamw" if "AdamW" in wanted["optimiser"] else "adam"
    weights = torch.nn.Parameter(fixture.tensor("weights"))
    settings = OptimSettings(name=name, lr=wanted["lr"], weight_decay=wanted["weight_decay"])
    optimizer = make_optimizer([weights], settings)
    found = []
    batches = fixture.tensor("gradients").unflatten(0, (-1, wanted["accumulate"])).mean(dim=1)
    for factor, gradient in zip(wanted["factors"], batches, strict=True):
        optimizer.param_groups[0]["lr"] = wanted["lr"] * factor
        weights.grad = gradient.clone()
        optimizer.step()
        found.append(weights.detach().clone())
    return {"weights": torch.stack(found)}


@check("epoch", MN)
@check("epoch", PASST)
def epoch(fixture: Fixture) -> dict[str, Any]:
    """Batches of an epoch, and clips of the last one."""
    found = []
    for case in fixture.settings["cases"]:
        count, settings = case["clips"], published("mn10")
        loader = settings.loader.model_copy(update={"batch_size": case["batch_size"], "num_workers": 0})
        sampler = DrawSampler(EpochDraws(count, count), seed=0)
        batches = training_loader(settings.model_copy(update={"loader": loader}), range(count), sampler)
        sizes = [len(batch) for batch in batches.batch_sampler or []]
        assert len(sizes) == len(batches)
        found.append({"batches": len(sizes), "last_batch": sizes[-1]})
    return {"epochs": found}


@check("recipe", MN)
def recipe(fixture: Fixture) -> dict[str, Any]:
    """Settings of the files that say that they are the published ones."""
    return {name: recipe_values(published(name)) for name in fixture.content["expected"]}


def recipe_values(settings: TaggingSettings) -> dict[str, Any]:
    """Settings under the names of the fixtures."""
    optim, augment = settings.optim, settings.augment
    here = settings.loader.model_copy(update={"num_workers": 0})
    loader = training_loader(
        settings.model_copy(update={"loader": here}), range(10), DrawSampler(EpochDraws(10, 10), seed=0)
    )
    values = {
        "optimiser": {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}[optim.name],
        **optim.model_dump(exclude={"name", "swa", "ema_decay"}), **augment.model_dump(),
        "epochs": settings.trainer.epochs, "batch_size": settings.loader.batch_size,
        "last_short_batch": not loader.drop_last, **settings.front_end.model_dump(), **network_options(settings),
    }  # fmt: skip
    if optim.swa is not None:
        values |= {"swa_start": optim.swa.start, "swa_every": optim.swa.every}
    if isinstance(settings, PretrainSettings):
        sampler, teacher = settings.sampler, settings.teacher
        values |= {"clips_per_epoch": sampler.clips_per_epoch, "replacement": sampler.replacement}
        values |= {"sampler_offset": sampler.offset}
        if teacher is not None:
            values |= {"temperature": teacher.temperature, "label_weight": teacher.label_weight}
    return values

"""Training fixtures of query by vocal imitation (QBV, QVIM's baseline): loss, views, steps, rates, epochs, figures."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.features.augment import cover, mix_statistics, roll
from common.registry import create_audio_model, load_released_state_dict
from common.registry.models import create_front_end
from common.settings import load_settings
from retrieval.imitation.data import Search, read_training
from retrieval.imitation.evaluate import score_search
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import AdamRamps, AdamWCosine, ImitationSettings
from retrieval.imitation.train import (
    ImitationModule,
    contrast,
    make_optimizer,
    rate_factor,
    training_loader,
)
from tests.check_training.fixtures import Check, Fixture, check
from tests.check_training.retrieval import CONFIGS, GivenGradients, run_training, train_with_gradients
from tests.support.golden_case import drawn_tensor, drawn_waveform

SIDES = {"imitation": "voice", "recording": "recording"}


def imitation_check(kind: str) -> Callable[[Check], Check]:
    """Register for both recipes."""

    def register(function: Check) -> Check:
        return check(kind, "Jonathan-Greif/QBV")(check(kind, "qvim-aes/qvim-baseline")(function))

    return register


def load_recipe(fixture: Fixture, **changes: Any) -> ImitationSettings:
    """The published configuration of a fixture's recipe, with the fixture's own values."""
    name = "qvim" if "QBV" not in fixture.source else "imitation"
    wanted = fixture.settings
    own = {f"training.{key}": wanted[key] for key in ("temperature", "mask_same_label", "batch_size") if key in wanted}
    own |= {f"training.optim.{key}": wanted[key] for key in ("lr", "weight_decay") if key in wanted}
    return load_settings(ImitationSettings, CONFIGS / f"{name}.yaml", {"data.num_workers": 0, **own, **changes})


@imitation_check("imitation_loss")
def imitation_loss(fixture: Fixture) -> Mapping[str, Any]:
    """Embeddings and labels to loss and gradients."""
    imitation, recording = (fixture.tensor(side).requires_grad_() for side in SIDES)
    loss = contrast(imitation, recording, read_labels(fixture, len(imitation)), load_recipe(fixture).training)
    loss.backward()
    return {"loss": loss.item(), "gradient_imitation": imitation.grad, "gradient_recording": recording.grad}


@imitation_check("imitation_view")
def imitation_view(fixture: Fixture) -> Mapping[str, Any]:
    """Waveforms and draws to the input of each encoder, every 7th frame."""
    return {side: compute_view(fixture, side)[..., ::7] for side in SIDES}


def compute_view(fixture: Fixture, side: str) -> Tensor:
    """Spectrogram of a side with the fixture's draws."""
    settings = fixture.settings
    draws = settings["sides" if "sides" in settings else "draws"][side]
    names = draws.get("waveforms") or settings["waveforms"][side]
    waveform = torch.from_numpy(np.stack([read_waveform(fixture, name) for name in names]))
    shift = torch.tensor(draws.get("shift", [0] * len(names)))
    front_end: Any = create_front_end("mn10.as").train()
    front_end.draw_edges = lambda: tuple(draws["mel_edges"])
    front_end.mask = lambda log_mel: cover_all(log_mel, draws)
    spectrogram = front_end(roll(waveform, shift, int(shift.abs().max())))
    if draws.get("mixstyle", settings.get("mixstyle", False)):
        style = fixture.tensor(f"style_weight_{side}"), fixture.tensor(f"style_partner_{side}")
        spectrogram = mix_statistics(spectrogram, *style)
    return spectrogram


def read_waveform(fixture: Fixture, name: str) -> np.ndarray:
    """A drawn waveform, with noise where the fixture has some."""
    samples, noise = fixture.settings["num_samples"], fixture.settings.get("noise", 0.0)
    waveform = drawn_waveform(name, samples, fixture.settings["sample_rate"])
    if noise:
        draw = np.random.RandomState(zlib.crc32(f"{name}/noise".encode()))
        waveform = np.float32(waveform + noise * draw.standard_normal(samples))
    return waveform


def cover_all(log_mel: Tensor, draws: Mapping[str, Any]) -> Tensor:
    """The log-mel spectrogram with the masks of a fixture."""
    for name, dim in (("frequency_mask", -2), ("time_mask", -1)):
        first, width = torch.tensor(draws[name]).T[..., None]
        log_mel = cover(log_mel, first, width, dim)
    return log_mel


@imitation_check("imitation_step")
def imitation_step(fixture: Fixture) -> Mapping[str, Any]:
    """Waveforms and draws to loss, norms of gradients, and statistics after the step."""
    settings = fixture.settings
    options = {name: settings[name] for name in ("width_mult", "num_classes")}
    model = ImitationModel(create_audio_model("mn10", **options))
    encoders = {"voice": model.voice, "recording": model.recording}
    for side, encoder in encoders.items():
        state = {
            name: torch.from_numpy(drawn_tensor(f"imitation/{side}/{name}", tuple(shape)))
            for name, shape in settings["state_dict"].items()
        }
        load_released_state_dict(encoder, state)
    module = ImitationModule(model.train(), load_recipe(fixture), None)
    voice, recording = (compute_view(fixture, side) for side in SIDES)
    loss = module.compute_loss(voice, recording, read_labels(fixture, len(voice)))
    loss.backward()
    networks = {side: encoder.network for side, encoder in encoders.items()}
    norms = {
        f"{side}/{name}": parameter.grad.norm().item()
        for side, network in networks.items()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    after = {f"{side}/{name}": value for side, network in networks.items() for name, value in network.named_buffers()}
    return {"loss": loss.item(), "gradient_norms": norms, "after": after}


def read_labels(fixture: Fixture, count: int) -> Tensor:
    """Labels of the pairs; QVIM has none."""
    return fixture.tensor("label") if "label" in fixture.arrays else torch.zeros(count)


@imitation_check("schedule")
def schedule(fixture: Fixture) -> Mapping[str, Any]:
    """Rates of epochs or steps."""
    rates = []
    for case, wanted in zip(fixture.settings["cases"], fixture.content["expected"]["rates"], strict=True):
        optim: AdamRamps | AdamWCosine
        if case["interval"] == "epoch":
            names = {name: case[name] for name in ("down_start", "down_length", "floor")}
            optim = AdamRamps(lr=case["peak"], warmup_epochs=case["warmup"], **names)
        else:
            names = {name: case[name] for name in ("warmup_epochs", "down_epochs")}
            optim = AdamWCosine(kind="adamw_cosine", lr=case["peak"], min_lr=case["lowest"], **names)
        factor = rate_factor(optim, case.get("steps_per_epoch", 1))
        rates.append({position: optim.lr * factor(int(position)) for position in wanted})
    return {"rates": rates}


@imitation_check("optimiser_steps")
def optimiser_steps(fixture: Fixture) -> Mapping[str, Any]:
    """Gradients of batches to weights after each step."""
    optim = load_recipe(fixture).training.optim
    return train_with_gradients(fixture, lambda weights: make_optimizer([weights], optim))


@imitation_check("epoch")
def epoch(fixture: Fixture) -> Mapping[str, Any]:
    """Published lists to the items and steps of an epoch."""
    settings = fixture.settings
    meta, train = (pd.DataFrame(settings[name], columns=settings[f"{name}_columns"]) for name in ("meta", "train"))
    with TemporaryDirectory() as folder:
        chosen = load_recipe(fixture, **{"data.root": folder})
        splits = Path(folder) / "splits" / f"fold{chosen.data.fold}"
        splits.mkdir(parents=True)
        for path, table in (
            (splits.parent / "meta.csv", meta),
            (splits / "train.csv", train),
            (splits / "val.csv", train),
        ):
            table.to_csv(path, sep="\t")
        for name in {*meta["filename"], *meta["positive_pair"]}:
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).touch()
        pairs, _ = read_training(chosen.data)
    batches: Any = training_loader(pairs, 32000, chosen).batch_sampler
    sizes = [len(batch) for batch in batches]
    steps = GivenGradients(
        torch.zeros(1), torch.zeros(len(sizes), 1), [1.0] * len(sizes), lambda weights: torch.optim.SGD([weights])
    )
    run_training(steps, settings["accumulate"])
    return {
        "items": len(pairs), "batches": len(sizes), "last_batch": sizes[-1], "optimiser_steps": len(steps.seen),
        "times_of_imitation": Counter(f"vocal_imitations/{path.name}" for path in pairs["imitation"]),
    }  # fmt: skip


@imitation_check("figures")
def figures(fixture: Fixture) -> Mapping[str, Any]:
    """Embeddings of queries and items to MRR and NDCG."""
    queries, items = fixture.tensor("queries"), fixture.tensor("items")
    sounds, voices = ([Path(f"{number}.wav") for number in range(len(side))] for side in (items, queries))
    labels = [str(label) for label in fixture.array("item_class")]
    target = fixture.array("target").tolist()
    search = Search(voices, sounds, target, labels, ["all"] * len(voices), ["all"] * len(sounds))
    return {name: figure.value for name, figure in score_search(queries @ items.mT, search).items()}


@imitation_check("recipe")
def recipe(fixture: Fixture) -> Mapping[str, Any]:
    """The published configurations."""
    coarse, fine, qvim = (
        load_settings(ImitationSettings, CONFIGS / f"{name}.yaml", {"data.num_workers": 0})
        for name in ("imitation", "imitation_fine", "qvim")
    )
    if shipped(coarse) != shipped(fine):
        raise ValueError(f"imitation.yaml and imitation_fine.yaml differ: {shipped(coarse)}, {shipped(fine)}")
    return {"qbv": shipped(coarse), "qvim": shipped(qvim)}


def shipped(settings: ImitationSettings) -> dict[str, Any]:
    """Values of a configuration by the names of the fixtures."""
    training, augmentation, optim = settings.training, settings.augmentation, settings.training.optim
    front_end: Any = create_front_end(settings.audio.model)
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], optim)
    row = pd.DataFrame({"imitation": ["a"], "recording": ["b"], "label": ["c"]})
    rows = pd.concat([row] * (training.batch_size + 1), ignore_index=True)
    course = optim.model_dump(exclude={"kind", "min_lr"})
    if isinstance(optim, AdamWCosine):
        course |= {
            "lowest_lr": optim.min_lr, "learn_temperature": False,
            "schedule": "per step: linear from lowest to peak, cosine to lowest, constant",
        }  # fmt: skip
    return {
        "optimiser": type(optimizer).__name__, **course, "epochs": settings.trainer.epochs,
        "batch_size": training.batch_size, "accumulate": settings.trainer.accumulate,
        "last_short_batch": len(training_loader(rows, 32000, settings)) == 2,
        "temperature": training.temperature, "mask_same_label": training.mask_same_label,
        **augmentation.model_dump(), "roll_of": "imitation",
        "f_min_jitter": front_end.f_min_jitter, "f_max_jitter": front_end.f_max_jitter,
        "duration": settings.data.duration, "kept": f"{settings.tested} epoch",
        "times_of_a_listed_row": len(training_loader(row, 32000, settings)),
        "rows_per_imitation_in_train_csv": 2,
    }  # fmt: skip

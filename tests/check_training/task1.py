"""Training fixtures of Task 1: MixStyle, responses, views, losses, whole steps, rates, epochs and recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.audio import write_wav
from common.data.loading import make_loader
from common.features.augment import Masks, cover, mix_statistics, roll
from common.features.impulse_responses import DeviceImpulseResponses
from common.registry import load_released_state_dict
from common.settings import load_settings
from common.training.schedules import ExponentialWarmupLinearDown, WarmupCosine
from task1_asc.networks.build import make_model
from task1_asc.settings import AugmentSettings, DistillationSettings, OptimSettings, RampOptimSettings, Task1Settings
from task1_asc.train import Augmentation, Draws, SceneTraining, distillation_loss, make_optimizer
from tests.check_training.fixtures import Check, Fixture, check
from tests.check_training.imitation import read_waveform
from tests.check_training.retrieval import train_with_gradients
from tests.support.golden_case import drawn_tensor
from tests.support.places import ROOT

CONFIGS = ROOT / "task1_asc" / "configs"
FILES = {"2024": "baseline", "2025": "device_aware", "2023": "distilled"}


def task1_check(kind: str) -> Any:
    """Register for the repositories of 2023 and 2024."""

    def register(function: Check) -> Check:
        return check(kind, "fschmid56/cpjku_dcase23")(check(kind, "CPJKU/dcase2024_task1_baseline")(function))

    return register


def load_recipe(year: str, **changes: Any) -> Task1Settings:
    """The published configuration of a year."""
    return load_settings(Task1Settings, CONFIGS / f"{FILES[year]}.yaml", changes)


@task1_check("mixstyle")
def mixstyle(fixture: Fixture) -> Mapping[str, Any]:
    """Spectrograms and a draw to mixed spectrograms and gradients."""
    spectrogram = fixture.tensor("spectrogram").requires_grad_()
    mixed = mix_statistics(spectrogram, fixture.tensor("weight"), fixture.tensor("partner"))
    (mixed * fixture.tensor("upstream_gradient")).sum().backward()
    return {"spectrogram": mixed.detach(), "gradient": spectrogram.grad}


@task1_check("impulse_response")
def impulse_response(fixture: Fixture) -> Mapping[str, Any]:
    """Waveforms through responses, and the published probabilities."""
    settings = fixture.settings
    options = {name: settings[name] for name in ("level", "delay")}
    names = [name.removeprefix("waveform_") for name in fixture.arrays if name.startswith("waveform_")]
    found: dict[str, Any] = {
        f"waveform_{name}": through_response(
            fixture.tensor(f"waveform_{name}", torch.float32), fixture.tensor(f"response_{name}", torch.float32),
            settings["sample_rate"], **options,
        )
        for name in names
    }  # fmt: skip
    distilled = load_recipe("2023")
    teachers = {teacher.name: teacher.augment for teacher in distilled.distillation.teachers}
    return found | {
        "probability_2023": published_probability(distilled.augment, settings["devices"]),
        "probability_dir": published_probability(teachers["cp_resnet_dir_fms"], settings["devices"]),
    }


def through_response(waveform: Tensor, response: Tensor, sample_rate: int, **options: Any) -> Tensor:
    """A waveform (samples,) convolved with a response by the kit's augmentation."""
    with TemporaryDirectory() as folder:
        write_wav(Path(folder) / "one.wav", response.numpy(), sample_rate, "FLOAT")
        responses = DeviceImpulseResponses(folder, sample_rate, **options)
    return responses.convolve(waveform[None], torch.tensor([0]))[0]


def published_probability(settings: AugmentSettings, devices: Sequence[str]) -> float:
    """Probability of the responses, which the devices of the fixture go through."""
    assert settings.impulse_responses is not None and settings.impulse_responses.recording_devices == list(devices)
    return settings.impulse_responses.probability


class GivenDraws(Augmentation):
    """Augmentation with the draws of a fixture."""

    def __init__(self, fixture: Fixture):
        super().__init__(AugmentSettings(), fixture.settings["sample_rate"])
        self.fixture, self.draws = fixture, fixture.settings

    def draw(self, *_: Any) -> Draws:
        """Mixed statistics, where the fixture has some."""
        names = [name for name in ("style_weight", "style_partner") if name in self.fixture.arrays]
        style = tuple(self.fixture.tensor(name) for name in names) or None
        return Draws(None, None, None, None, Masks(None, None), style)  # type: ignore[arg-type]

    def waveforms(self, waveform: Tensor, target: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Responses, then roll."""
        for row, through in enumerate(self.draws.get("through_response", [])):
            if through:
                response = self.fixture.tensor("response", torch.float32)
                waveform[row] = through_response(waveform[row], response, self.draws["sample_rate"])
        shift = torch.tensor(self.draws["shift"])
        return roll(waveform, shift, int(shift.abs().max())), target

    def power(self, spectrogram: Tensor, draws: Draws) -> Tensor:
        """The masks."""
        first, width = torch.tensor(self.draws["frequency_mask"]).T[..., None]
        return cover(spectrogram, first, width, -2)


def make_module(fixture: Fixture) -> SceneTraining:
    """The training of the published configuration, with the widths and draws of the fixture."""
    draws = fixture.settings
    changes: dict[str, Any] = {f"model.{name}": value for name, value in draws.get("model", {}).items()}
    if draws["recipe"] == "2023":
        changes["augment.impulse_responses"] = None  # a folder; the fixture has its own response
    settings = load_recipe(draws["recipe"], **changes)
    model = make_model(settings, draws["sample_rate"])
    if "state_dict" in draws:
        state = {
            name: torch.from_numpy(drawn_tensor(f"task1/{draws['recipe']}/{name}", tuple(shape)))
            for name, shape in draws["state_dict"].items()
        }
        load_released_state_dict(model, state)
    module = SceneTraining(settings, draws["sample_rate"], model).train()
    module.augmentation = GivenDraws(fixture)
    if "mel_edges" in draws:
        module.front_end.draw_edges = lambda: tuple(draws["mel_edges"])
    return module


def run_step(module: SceneTraining, fixture: Fixture) -> tuple[Tensor, Tensor]:
    """Loss of a training step on the fixture's clips, and the input of the network."""
    draws, seen = fixture.settings, list[Tensor]()
    waveform = torch.stack([torch.from_numpy(read_waveform(fixture, name)) for name in draws["waveforms"]])
    count = len(waveform)
    target = fixture.tensor("label") if "label" in fixture.arrays else torch.zeros(count, dtype=torch.int64)
    batch = {"waveform": waveform, "target": target, "recording_device": ["a"] * count}
    if "teacher_logits" in fixture.arrays:
        batch["teacher_logits"] = fixture.tensor("teacher_logits", torch.float32)
    handle = module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with patch.object(SceneTraining, "log"):
        loss = module.training_step(batch, 0)
    handle.remove()
    return loss, seen[0]


@task1_check("view")
def view(fixture: Fixture) -> Mapping[str, Any]:
    """Waveforms and draws to the input of the network: every 4th mel, every 5th frame."""
    return {"spectrogram": run_step(make_module(fixture), fixture)[1].detach()[..., ::4, ::5]}


@task1_check("training_step")
def training_step(fixture: Fixture) -> Mapping[str, Any]:
    """Waveforms and draws to loss, norms of gradients, and statistics after the step."""
    module = make_module(fixture)
    loss, _ = run_step(module, fixture)
    loss.backward()
    network = module.network
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    found: dict[str, Any] = {
        "loss": loss.item(),
        "gradient_norms": {name: gradient.norm().item() for name, gradient in gradients.items()},
        "after": {name: value.clone() for name, value in network.named_buffers()},
    }
    if "teacher_logits" in fixture.arrays:
        own = fixture.settings["label_weight"]
        for share, weight, only in (("label_loss", own, 1.0), ("kd_loss", 1 - own, 0.0)):
            alone = make_module(fixture)
            assert alone.settings.distillation is not None
            distillation = alone.settings.distillation.model_copy(update={"label_weight": only})
            alone.settings = alone.settings.model_copy(update={"distillation": distillation})
            found[share] = weight * run_step(alone, fixture)[0].item()
    return found


@task1_check("distillation")
def distillation(fixture: Fixture) -> Mapping[str, Any]:
    """Logits to the loss, its shares and its gradient."""
    wanted = {name: fixture.settings[name] for name in ("temperature", "label_weight")}
    settings = DistillationSettings(logits=Path("logits.h5"), **wanted)
    logits = fixture.tensor("logits").requires_grad_()
    labels = F.one_hot(fixture.tensor("label"), logits.shape[1]).to(logits)
    taught = (fixture.tensor("teacher_logits") / settings.temperature).softmax(dim=1)
    shares = {}
    for name, weight, only in (("label_loss", settings.label_weight, 1.0), ("kd_loss", 1 - settings.label_weight, 0.0)):
        alone = settings.model_copy(update={"label_weight": only})
        shares[name] = weight * distillation_loss(logits, labels, taught, alone).item()
    loss = distillation_loss(logits, labels, taught, settings)
    loss.backward()
    return {"loss": loss.item(), **shares, "gradient": logits.grad}


@task1_check("schedule")
def schedule(fixture: Fixture) -> Mapping[str, Any]:
    """Factors of steps or epochs."""
    factors = []
    for case, wanted in zip(fixture.settings["cases"], fixture.content["expected"]["factors"], strict=True):
        factor: Any = (
            WarmupCosine(case["warmup_steps"], case["total_steps"])
            if case["schedule"] == "cosine"
            else ExponentialWarmupLinearDown(case["warmup"], case["down_start"], case["down_length"], case["floor"])
        )
        factors.append({position: factor(int(position)) for position in wanted})
    return {"factors": factors}


@task1_check("optimiser_steps")
def optimiser_steps(fixture: Fixture) -> Mapping[str, Any]:
    """Gradients to weights after each step."""
    wanted = fixture.settings
    changes = {f"optim.{name}": wanted[name] for name in ("lr", "weight_decay")}
    optim = load_recipe(wanted["recipe"], **changes).optim
    return train_with_gradients(fixture, lambda weights: make_optimizer([weights], optim))


class Rows:
    """Clips that are numbers."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """A batch."""
        return {"index": torch.as_tensor(indices)}


@task1_check("epoch")
def epoch(fixture: Fixture) -> Mapping[str, Any]:
    """Batches of an epoch, and steps of the training."""
    wanted = fixture.settings
    sizes = [len(batch["index"]) for batch in make_loader(Rows(wanted["clips"]), wanted["batch_size"], shuffle_seed=0)]
    return {"batches": len(sizes), "last_batch": sizes[-1], "total_steps": len(sizes) * wanted["epochs"]}


@task1_check("recipe")
def recipe(fixture: Fixture) -> Mapping[str, Any]:
    """The published configurations."""
    found = {year: shipped(load_recipe(year)) for year in ("2024", "2025", "2023")}
    device_aware = load_recipe("2025")
    assert device_aware.device_tuning is not None
    tuning = device_aware.device_tuning
    own = {
        "augment": tuning.augment,
        "optim": tuning.optim,
        "loader": device_aware.loader.model_copy(update={"batch_size": tuning.batch_size}),
        "trainer": device_aware.trainer.model_copy(update={"epochs": tuning.epochs}),
    }
    return found | {"2025_device": shipped(device_aware.model_copy(update=own))}


def shipped(settings: Task1Settings) -> dict[str, Any]:
    """Values of a configuration by the names of the fixtures."""
    optim, augment = settings.optim, settings.augment
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], optim)
    mixstyle = augment.freq_mixstyle
    found: dict[str, Any] = {
        "optimiser": type(optimizer).__name__, "lr": optim.lr, "weight_decay": optim.weight_decay,
        "epochs": settings.trainer.epochs, "batch_size": settings.loader.batch_size,
        "last_short_batch": len(list(make_loader(Rows(3), 2, shuffle_seed=0))) == 2,
        "mixstyle_probability": 0.0 if mixstyle is None else mixstyle.probability,
        "mixstyle_alpha": 0.3 if mixstyle is None else mixstyle.alpha,
        "frequency_mask": augment.frequency_mask, "time_mask": augment.time_mask,
    }  # fmt: skip
    if isinstance(optim, OptimSettings):
        kept = "last epoch" if settings.data.validation is None else "best epoch"
        return found | {
            "warmup_steps": optim.warmup_steps, "roll_seconds": augment.roll_seconds,
            "mask_on": "power, before the logarithm", "kept": kept,
        }  # fmt: skip
    assert isinstance(optim, RampOptimSettings) and settings.distillation is not None
    front_end: Any = make_model(settings, 32000).front_end
    assert augment.impulse_responses is not None
    return found | {
        "optimiser": f"{found['optimiser']}, {optim.decay.upper()}", "warmup": optim.rise_epochs,
        "down_start": optim.fall_from, "down_length": optim.fall_epochs, "floor": optim.floor,
        "roll": round(augment.roll_seconds * 32000), "dir_probability": augment.impulse_responses.probability,
        "mask_on": "logarithm, before shift and scale",
        "f_min_jitter": max(1, front_end.f_min_jitter),  # less than 1 Hz is none

        "f_max_jitter": front_end.f_max_jitter, "temperature": settings.distillation.temperature,
        "label_weight": settings.distillation.label_weight,
        "order": ["impulse response", "roll", "mel", "mask", "mixstyle"],
    }  # fmt: skip

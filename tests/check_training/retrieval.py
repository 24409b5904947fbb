"""Training fixtures of text-to-audio retrieval (salsa): steps of both stages, windows, captions, rates, epochs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.models.network import ModelOutput
from common.models.text import TextEncoder, pool
from common.registry.models import create_front_end
from common.settings import TrainerSettings, load_settings
from common.training.trainer import fit, make_trainer
from retrieval.correspondences import EstimatedCorrespondences, write_teacher
from retrieval.data.clips import CaptionSampler, split_windows
from retrieval.model import DualEncoder
from retrieval.settings import MONITOR, Correspondences, RetrievalSettings, TextEncoderSettings, Training
from retrieval.train import STAGE_1, RetrievalModule, make_optimizer, rate_factor, trainer_settings
from tests.check_training.fixtures import Fixture, check
from tests.support.places import ROOT

SALSA = "OptimusPrimus/salsa"
CONFIGS = ROOT / "retrieval" / "configs"
WINDOW = 320_000


class GivenAudio(nn.Module):
    """Stands for an audio encoder with these outputs (windows, dim)."""

    sample_rate = 32000

    def __init__(self, embeddings: Tensor):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, windows: Tensor) -> ModelOutput:
        return ModelOutput(None, self.embeddings)


class GivenText(nn.Module):
    """Stands for a text encoder whose tokens have these states (captions, tokens, dim)."""

    def __init__(self, states: Tensor, mask: Tensor):
        super().__init__()
        self.states, self.mask, self.dim = states, mask, states.shape[2]

    def forward(self, captions: list[str]) -> Tensor:
        return pool(self.states, self.mask, TextEncoderSettings().pooling)


@check("training_step", SALSA)
def training_step(fixture: Fixture) -> Mapping[str, Any]:
    """Outputs of the encoders to loss and gradients."""
    settings = fixture.settings
    windows = fixture.tensor("window_embeddings", torch.float32).requires_grad_()
    states = fixture.tensor("token_states", torch.float32).requires_grad_()
    clips, per_clip = windows.shape[:2]
    names, captions = [f"clip {i}" for i in range(clips)], [f"caption {i}" for i in range(len(states))]
    text = GivenText(states, fixture.tensor("attention_mask"))
    dim = len(fixture.array("project_audio_bias"))
    audio: Any = GivenAudio(windows.flatten(0, 1))
    model = DualEncoder(audio, text, windows.shape[2], dim, temperature=settings["temperature"])  # type: ignore[arg-type]
    projections = {
        f"{head}.0.{kind}": fixture.tensor(f"{head}_{kind}", torch.float32)
        for head in ("project_audio", "project_text") for kind in ("weight", "bias")
    }  # fmt: skip
    model.load_state_dict(projections, strict=False)
    weights = {name: settings[name] for name in ("contrastive_weight", "distillation_weight")}
    module = RetrievalModule(model, Training(), _teachers(fixture, names, captions), Correspondences(**weights))
    batch = {
        "windows": torch.zeros(1, 1).expand(clips * per_clip, WINDOW),
        "window_clip": torch.arange(clips).repeat_interleave(per_clip),
        "samples": (fixture.tensor("signal_fraction") * per_clip * WINDOW).round().long(),
        "captions": captions,
        "caption_clip": fixture.tensor("clip_of_pair"),
        "clip": torch.arange(clips),
    }
    loss = module.compute_loss(batch)
    loss.backward()
    gradients = {f"gradient_{name.replace('.0.', '_')}": model.get_parameter(name).grad for name in projections}
    gradients |= {"gradient_window_embeddings": windows.grad, "gradient_token_states": states.grad}
    return {"loss": loss.item(), **gradients}


def _teachers(fixture: Fixture, clips: list[str], captions: list[str]) -> EstimatedCorrespondences | None:
    if not fixture.settings["teachers"]:
        return None
    audio, text = (fixture.tensor(name, torch.float32) for name in ("teacher_audio", "teacher_text"))
    with TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(audio.shape[1])]
        for number, place in enumerate(folders):
            write_teacher(place, clips, audio[:, number], captions, text[:, number], "dcase2024")
        return EstimatedCorrespondences(folders, clips, captions, "dcase2024")


@check("windows", SALSA)
def windows(fixture: Fixture) -> Mapping[str, Any]:
    """Lengths of clips to windows and their signal."""
    rate = fixture.settings["sample_rate"]
    window, longest = (round(fixture.settings[name] * rate) for name in ("window", "max_duration"))
    cut = [split_windows(torch.ones(min(length, longest)), window) for length in fixture.settings["lengths"]]
    return {
        "windows_counted": [len(clip) for clip in cut],
        "samples_in_window": [[int(row.sum()) for row in clip.double()] for clip in cut],
    }


@check("captions", SALSA)
def captions(fixture: Fixture) -> Mapping[str, Any]:
    """Captions to the call of the tokenizer."""
    settings, got = TextEncoderSettings(), {}

    def tokenizer(texts: list[str], **options: Any) -> dict[str, None]:
        got.update(texts=texts, **options)
        return {"input_ids": None, "attention_mask": None}

    encoder = TextEncoder.__new__(TextEncoder)
    nn.Module.__init__(encoder)
    encoder.tokenizer, encoder.max_tokens, encoder.caption_rule = tokenizer, settings.max_tokens, settings.caption_rule
    encoder.tokenize(fixture.settings["captions"])
    return {
        "tokenizer_input": got["texts"], "max_length": got["max_length"], "truncation": got["truncation"],
        "special_tokens": got.get("add_special_tokens", True),
    }  # fmt: skip


@check("schedule", SALSA)
def schedule(fixture: Fixture) -> Mapping[str, Any]:
    """Rate of each group before a step."""
    rates = []
    for case, wanted in zip(fixture.settings["cases"], fixture.content["expected"]["rates"], strict=True):
        peaks = case["peaks"]
        names = ("warmup_epochs", "decay_end_epoch")
        training = Training(lr=peaks[0], min_lr=case["lowest"], **{name: case[name] for name in names})
        factors = [rate_factor(training, peak, case["steps_per_epoch"]) for peak in peaks]
        rates.append({step: [peak * f(int(step)) for peak, f in zip(peaks, factors)] for step in wanted})
    return {"rates": rates}


@check("epoch", SALSA)
def epoch(fixture: Fixture) -> Mapping[str, Any]:
    """Pairs and batches of an epoch."""
    settings = fixture.settings
    sizes = _batch_sizes(settings["captions_of_clip"], settings["pairs_per_batch"], settings["captions_per_clip"])
    return {"pairs": sum(settings["captions_of_clip"]), "batches": len(sizes), "smallest_batch": min(sizes)}


def _batch_sizes(counts: list[int], pairs_per_batch: int, captions_per_clip: int) -> list[int]:
    sampler = CaptionSampler(counts, pairs_per_batch, captions_per_clip, seed=0)
    return [sum(len(chosen) for _, chosen, _ in batch) for batch in sampler]


@check("optimiser_steps", SALSA)
def optimiser_steps(fixture: Fixture) -> Mapping[str, Any]:
    """Gradients to weights after each step."""
    training = Training(lr=fixture.settings["lr"], weight_decay=fixture.settings["weight_decay"])
    return train_with_gradients(fixture, lambda weights: make_optimizer([([weights], training.lr)], training))


def train_with_gradients(fixture: Fixture, make: Callable[[Tensor], torch.optim.Optimizer]) -> Mapping[str, Any]:
    """Weights after each step of a training with given gradients of its batches, and given factors of the rate."""
    factors, accumulate = fixture.settings["factors"], fixture.settings["accumulate"]
    module = GivenGradients(fixture.tensor("weights"), fixture.tensor("gradients"), factors, make)
    run_training(module, accumulate)
    return {"weights": torch.stack(module.seen)}


class GivenGradients(LightningModule):
    """A training whose batches have these gradients (batches, weights)."""

    def __init__(
        self, weights: Tensor, gradients: Tensor, factors: list[float],
        make: Callable[[Tensor], torch.optim.Optimizer],
    ):  # fmt: skip
        super().__init__()
        self.weights, self.gradients = nn.Parameter(weights), gradients
        self.factors, self.make, self.seen = factors, make, list[Tensor]()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weights * self.gradients[batch_idx]).sum()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.seen.append(self.weights.detach().clone())

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.weights)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [*self.factors, 0.0][step])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def run_training(module: GivenGradients, accumulate: int) -> None:
    """One epoch by the kit's trainer."""
    with TemporaryDirectory() as folder:
        settings = TrainerSettings(epochs=1, accumulate=accumulate, accelerator="cpu")
        loader: DataLoader[Any] = DataLoader(torch.zeros(len(module.gradients), 1))  # type: ignore[arg-type]
        fit(make_trainer(settings, Path(folder), 0), module, loader)


@check("recipe", SALSA)
def recipe(fixture: Fixture) -> Mapping[str, Any]:
    """Both published configurations."""
    ours = [
        _shipped(load_settings(RetrievalSettings, CONFIGS / f"{name}.yaml"))
        for name in ("published", "self_distillation")
    ]
    if ours[0] != ours[1]:
        raise ValueError(f"published.yaml and self_distillation.yaml differ: {ours}")
    return ours[0]


def _shipped(settings: RetrievalSettings) -> dict[str, Any]:
    model = settings.models["passt"]
    front_end: Any = create_front_end(model.audio.model)
    masked = {"frequency_mask": 0, "time_mask": 0} if front_end.mask is None else {}
    stages: dict[str, Any] = {}
    for name, training, weights in (
        ("stage1", settings.contrastive, STAGE_1),
        ("stage2", settings.distilled, settings.correspondences),
    ):
        assert training is not None
        optimizer = make_optimizer([([nn.Parameter(torch.zeros(1))], training.lr)], training)
        trainer = trainer_settings(settings.trainer, training)
        sizes = _batch_sizes([1] * (training.pairs_per_batch + 1), training.pairs_per_batch, training.captions_per_clip)
        stages[name] = {
            "optimiser": type(optimizer).__name__,
            **{key: optimizer.defaults[key] for key in ("betas", "eps", "weight_decay")},
            "lr": training.lr if training.projection_lr in (None, training.lr) else None, "lowest_lr": training.min_lr,
            "epochs": trainer.epochs, "accumulate": trainer.accumulate, "precision": trainer.precision,
            "warmup_epochs": training.warmup_epochs, "decay_end_epoch": training.decay_end_epoch,
            "pairs_per_batch": training.pairs_per_batch, "captions_per_clip": training.captions_per_clip,
            "last_short_batch": min(sizes) < training.pairs_per_batch,
            "temperature": model.temperature, "learn_temperature": model.learn_temperature,
            "audio": model.audio.model, **model.audio.options, **masked,
            "f_min_jitter": front_end.f_min_jitter, "f_max_jitter": front_end.f_max_jitter,
            "window": settings.data.window, "max_duration": settings.data.max_duration,
            "text": model.text.model, "text_dropout": model.text.dropout, "max_tokens": model.text.max_tokens,
            "dim": model.dim, "hidden_layers": model.hidden_layers, "kept": f"highest validation {MONITOR}",
            "contrastive_weight": weights.contrastive_weight, "distillation_weight": weights.distillation_weight,
            "starts_from": "best of stage 1",
        }  # fmt: skip
    return stages

"""How one dual encoder learns: contrasted pairs in stage 1, estimated correspondences in stage 2."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from common.data.loading import make_plan_loader
from common.models.network import uses_gpu
from common.output import say
from common.runs.energy import measure_energy
from common.settings import MachineSettings, TrainerSettings
from common.training.memory import MemoryEstimate, activations_per_clip, refuse_large
from common.training.schedules import WarmupCosine, schedule_rate
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from retrieval.correspondences import EstimatedCorrespondences
from retrieval.data.clips import CaptionedClips, CaptionSampler, evaluation_loader, read_clips
from retrieval.losses import contrastive_loss, distillation_loss
from retrieval.metrics import Ranks
from retrieval.model import DualEncoder
from retrieval.settings import MONITOR, Correspondences, Data, DataSource, RetrievalSettings, Training

T = TypeVar("T")
STAGE_1 = Correspondences(contrastive_weight=1.0, distillation_weight=0.0)


class RetrievalModule(LightningModule):
    """One training stage; `teachers` are the correspondences of stage 2, None is stage 1."""

    def __init__(
        self,
        model: DualEncoder,
        training: Training,
        teachers: EstimatedCorrespondences | None = None,
        weights: Correspondences = STAGE_1,
    ):
        super().__init__()
        self.model, self.training_settings = model, training
        self.teachers, self.weights = teachers, weights
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of the pairs of all processes together."""
        loss = self.compute_loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["captions"]))
        return loss

    def compute_loss(self, batch: dict[str, Any]) -> Tensor:
        """Loss of a batch of `collate`."""
        clips = self.model.embed_audio(batch["windows"], batch["window_clip"], batch["samples"])
        audio = _gathered(clips.float()[batch["caption_clip"]])
        text = _gathered(self.model.embed_text(batch["captions"]).float())
        group = _gathered(batch["clip"][batch["caption_clip"]])
        weights, temperature, loss = self.weights, self.model.temperature, audio.new_zeros(())
        if weights.contrastive_weight:
            loss = loss + weights.contrastive_weight * contrastive_loss(audio, text, group, temperature)
        if self.teachers is not None:
            # The rows of the teachers' tables stay on the host, where they are looked up.
            rows = batch["rows"] if "rows" in batch else batch["clip"][batch["caption_clip"]].tolist()
            targets = self.teachers(_gathered_list(rows), _gathered_list(batch["captions"]), device=audio.device)
            loss = loss + weights.distillation_weight * distillation_loss(audio, text, targets, temperature)
        return loss

    def estimate_memory(self, data: Data, precision: str) -> MemoryEstimate:
        """Memory of a step, with all clips of the longest duration."""
        model, training = self.model, self.training_settings
        clips = -(-training.pairs_per_batch // training.captions_per_clip)
        windows = clips * math.ceil(data.max_duration / data.window)
        waveform = torch.zeros(1, round(data.window * model.sample_rate))
        with torch.no_grad():
            features = model.audio.front_end(waveform)
        tokens = torch.ones(1, model.text.max_tokens, dtype=torch.int64)
        activations = windows * activations_per_clip(model.audio.network, [features], model.audio.network, precision)
        if not model.text.frozen:
            states = activations_per_clip(model.text.model, [tokens, tokens], model.text.model, precision)
            activations += training.pairs_per_batch * states
        batch = windows * 4 * (2 * waveform.numel() + 3 * features.numel())
        return MemoryEstimate.of(model, activations, batch, precision)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen text encoder out: it is the same in every checkpoint, and the largest part of it."""
        if self.model.text.frozen:
            for name in [name for name in checkpoint["state_dict"] if name.startswith("model.text.")]:
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put it back."""
        if self.model.text.frozen:
            own = self.model.state_dict()
            checkpoint["state_dict"] |= {f"model.{name}": own[name] for name in own if name.startswith("text.")}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Collect the embeddings; each process encodes all clips."""
        clips = self.model.embed_audio(batch["windows"], batch["window_clip"], batch["samples"])
        text = self.model.embed_text(batch["captions"])
        self._validation.append((clips.float(), text.float(), batch["clip"][batch["caption_clip"]]))

    def on_validation_epoch_end(self) -> None:
        """Log mAP@10, R@1, R@10 and MRR of captions that search their own clip."""
        audio, text, owner = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        relevant = owner[:, None] == torch.arange(len(audio), device=owner.device)
        ranks = Ranks.of(text @ audio.mT, relevant)
        self.log(MONITOR, ranks.average_precision(10).mean(), prog_bar=True, rank_zero_only=True)
        self.log("R@1", ranks.recall(1).mean(), rank_zero_only=True)
        self.log("R@10", ranks.recall(10).mean(), rank_zero_only=True)
        self.log("MRR", ranks.reciprocal_rank().mean(), rank_zero_only=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with one rate for the encoders and one for the projections."""
        projections = [*self.model.project_audio.parameters(), *self.model.project_text.parameters()]
        apart = {id(parameter) for parameter in projections}
        encoders = [p for p in self.model.parameters() if p.requires_grad and id(p) not in apart]
        settings, epochs = self.training_settings, self.trainer.max_epochs or 1
        peaks = [settings.lr, settings.projection_lr or settings.lr]
        optimizer = make_optimizer(list(zip([encoders, projections], peaks)), settings)
        steps = self.trainer.estimated_stepping_batches / epochs
        return schedule_rate(optimizer, [rate_factor(settings, peak, steps) for peak in peaks], "step")


def make_optimizer(groups: Sequence[tuple[Sequence[Tensor], float]], settings: Training) -> torch.optim.AdamW:
    """AdamW for groups of (parameters, peak learning rate)."""
    parameters = [{"params": list(parameters), "lr": peak} for parameters, peak in groups]
    return torch.optim.AdamW(parameters, weight_decay=settings.weight_decay, betas=(0.9, 0.999), eps=1e-8)


def rate_factor(settings: Training, peak: float, steps_per_epoch: float) -> WarmupCosine:
    """Course of a group's learning rate as a share of its peak; every group ends at `min_lr`."""
    warmup, end = settings.warmup_epochs * steps_per_epoch, settings.decay_end_epoch * steps_per_epoch
    return WarmupCosine(warmup, end, floor=settings.min_lr / peak)


def train(
    folder: Path,
    module: RetrievalModule,
    sources: Sequence[DataSource],
    settings: RetrievalSettings,
    seed: int,
    fast_check: bool = False,
) -> None:
    """Train in `folder`: last.ckpt resumes an interrupted training, best.ckpt has the highest validation mAP@10.

    The seed decides batches, parts of clips and dropout.
    """
    training, data, rate = module.training_settings, settings.data, module.model.sample_rate
    chosen, held_out = (read_clips(*each, allow_missing=data.allow_missing) for each in (sources, [data.validation]))
    clips = CaptionedClips(chosen, rate, data, random_part=True, seed=seed)
    validation = evaluation_loader(CaptionedClips(held_out, rate, data, random_part=False), 32)
    seed_all(seed)
    machine = on_this_machine(trainer_settings(settings.trainer, training))
    if uses_gpu(machine):
        memory = module.estimate_memory(data, machine.precision)
        say(f"{folder.name}: {memory.sentence(training.pairs_per_batch // training.captions_per_clip)}")
        refuse_large(memory, folder.name, "Lower pairs_per_batch or data.max_duration, or set 16-mixed precision.")
    trainer = make_trainer(machine, folder, seed, monitor=MONITOR, fast_check=fast_check, share_clips=False)
    sampler = CaptionSampler(
        [len(captions) for captions in clips.captions],
        training.pairs_per_batch,
        training.captions_per_clip,
        seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    with measure_energy(folder, machine):
        fit(trainer, module, make_plan_loader(clips, sampler, data.num_workers, uses_gpu(machine)), validation)


def trainer_settings(machine: MachineSettings, training: Training) -> TrainerSettings:
    """Settings of the trainer of a stage."""
    return TrainerSettings(**machine.model_dump(), epochs=training.epochs)


def on_this_machine(settings: TrainerSettings) -> TrainerSettings:
    """16-mixed is a GPU's number format: without a GPU, or on the CPU by choice, it becomes 32-true."""
    if settings.precision == "16-mixed" and not uses_gpu(settings):
        return settings.model_copy(update={"precision": "32-true"})
    return settings


def _gathered(tensor: Tensor) -> Tensor:
    """Rows of all processes, with gradient, in rank order; the tensor itself when there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    if tensor.requires_grad:
        return torch.cat(all_gather(tensor))
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _gathered_list(values: list[T]) -> list[T]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    parts: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, values)
    return [value for part in parts for value in part]

"""How one dual encoder learns: contrasted pairs in stage 1, estimated correspondences in stage 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from common.errors import UserError
from common.models.text import TextEncoder
from common.registry import load_audio_model
from common.registry.factory import create_audio_model
from common.settings.trainer import TrainerSettings
from common.training.checkpoints import weights_of
from common.training.schedules import WarmupCosine
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from retrieval.clips import CaptionedClips, CaptionSampler, Manifest, evaluation_loader, training_loader
from retrieval.correspondences import EstimatedCorrespondences, Teacher
from retrieval.losses import contrastive_loss, distillation_loss
from retrieval.metrics import mean_average_precision, mean_reciprocal_rank, recall_at_k
from retrieval.model import DualEncoder
from retrieval.settings import AudioEncoder, Data, Model, TextEncoderSettings, Training


def make_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """The text encoder of the settings; its parameters do not learn when it is frozen."""
    encoder = TextEncoder(
        settings.model,
        dropout=settings.dropout,
        pooling=settings.pooling,
        max_tokens=settings.max_tokens,
        caption_rule=settings.caption_rule,
        pretrained=settings.pretrained,
    )
    if settings.frozen:
        encoder.freeze()
    return encoder


def make_model(settings: Model) -> DualEncoder:
    """A dual encoder with the weights that the settings name; random numbers come from torch's global generator."""
    audio = make_audio_encoder(settings.audio)
    with torch.inference_mode():
        audio_dim = audio.eval()(torch.zeros(1, audio.sample_rate)).embedding.shape[1]
    model = DualEncoder(
        audio,
        make_text_encoder(settings.text),
        audio_dim,
        dim=settings.dim,
        hidden_layers=settings.hidden_layers,
        temperature=settings.temperature,
        learn_temperature=settings.learn_temperature,
    )
    freeze_unused(model)
    return model


def freeze_unused(model: DualEncoder) -> None:
    """Let parameters that no embedding depends on, such as a classifier's, not learn: DDP waits for each that does."""
    rate = model.audio.sample_rate
    audio = model.eval().embed_audio(torch.zeros(1, rate), torch.zeros(1, dtype=torch.long), 1)
    (audio.sum() + model.embed_text(["a sound"]).sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None and name != "temperature":
            parameter.requires_grad_(False)
        parameter.grad = None


def make_audio_encoder(settings: AudioEncoder) -> Any:
    """The audio model of the settings."""
    model = _read_audio_encoder(settings)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and settings.norm_momentum is not None:
            module.momentum = settings.norm_momentum
    return model


def _read_audio_encoder(settings: AudioEncoder) -> Any:
    if settings.weights == "random":
        return create_audio_model(settings.model, **settings.options)
    weights = None if settings.weights == "released" else Path(settings.weights)
    model = load_audio_model(settings.model, weights)
    if settings.options:
        trained = model.network.state_dict()
        model.network = create_audio_model(settings.model, **settings.options).network
        model.network.load_state_dict(trained)
    return model


class RetrievalModule(LightningModule):
    """One training stage.

    Args:
        model: learns.
        training: learning rates and their course.
        seed: unused here; the trainer sets it.
        teachers: correspondences to learn from; None is stage 1.
        contrastive_weight: weight of the loss of stage 1 beside the teachers.
    """

    def __init__(
        self,
        model: DualEncoder,
        training: Training,
        teachers: EstimatedCorrespondences | None = None,
        contrastive_weight: float = 1.0,
    ):
        super().__init__()
        self.model, self.training_settings = model, training
        self.teachers, self.contrastive_weight = teachers, contrastive_weight
        self._validation: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of the pairs of all processes together."""
        clips = self.model.embed_audio(batch["windows"], batch["window_clip"], len(batch["clip"])).float()
        audio = _gathered(clips[batch["caption_clip"]])
        text = _gathered(self.model.embed_text(batch["captions"]).float())
        group = _gathered(batch["clip"][batch["caption_clip"]])
        loss = self._loss(audio, text, group, batch["captions"])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["captions"]))
        return loss

    def _loss(self, audio: Tensor, text: Tensor, group: Tensor, captions: list[str]) -> Tensor:
        temperature = self.model.temperature
        if self.teachers is None:
            return contrastive_loss(audio, text, group, temperature)
        targets = self.teachers(group, _gathered_captions(captions), device=audio.device)
        loss = distillation_loss(audio, text, targets, temperature)
        if self.contrastive_weight:
            loss = loss + self.contrastive_weight * contrastive_loss(audio, text, group, temperature)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave a frozen text encoder out: it is the same in every checkpoint, and the largest part of it."""
        if self.model.text.frozen:
            for name in [name for name in checkpoint["state_dict"] if name.startswith("model.text.")]:
                del checkpoint["state_dict"][name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put it back."""
        if self.model.text.frozen:
            own = {
                f"model.{name}": value for name, value in self.model.state_dict().items() if name.startswith("text.")
            }
            checkpoint["state_dict"] |= own

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep the embeddings until all are there; each process hears all clips."""
        clips = self.model.embed_audio(batch["windows"], batch["window_clip"], len(batch["clip"]))
        text = self.model.embed_text(batch["captions"])
        owner = batch["clip"][batch["caption_clip"]]
        self._validation.append((clips.float(), text.float(), owner))

    def on_validation_epoch_end(self) -> None:
        """Log mAP@10, R@1, R@10 and MRR of captions that look for their own clip."""
        audio, text, owner = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        relevant = owner[:, None] == torch.arange(len(audio), device=owner.device)
        similarity = text @ audio.mT
        self.log("mAP@10", mean_average_precision(similarity, relevant, 10), prog_bar=True, rank_zero_only=True)
        self.log("R@1", recall_at_k(similarity, relevant, 1), rank_zero_only=True)
        self.log("R@10", recall_at_k(similarity, relevant, 10), rank_zero_only=True)
        self.log("MRR", mean_reciprocal_rank(similarity, relevant), rank_zero_only=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with one rate for the encoders and one for the projections."""
        settings = self.training_settings
        projections = [*self.model.project_audio.parameters(), *self.model.project_text.parameters()]
        apart = {id(parameter) for parameter in projections}
        encoders = [p for p in self.model.parameters() if p.requires_grad and id(p) not in apart]
        groups = [
            {"params": encoders, "lr": settings.lr},
            {"params": projections, "lr": settings.projection_lr or settings.lr},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, betas=(0.9, 0.999), eps=1e-8)
        epoch = self.trainer.estimated_stepping_batches / self.trainer.max_epochs
        schedule = WarmupCosine(
            warmup_steps=round(settings.warmup_epochs * epoch),
            total_steps=round(settings.decay_end_epoch * epoch),
            floor=settings.min_lr / settings.lr,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(
    folder: Path,
    model: DualEncoder,
    manifest: Manifest,
    validation: Manifest,
    data: Data,
    training: Training,
    seed: int,
    teachers: EstimatedCorrespondences | None = None,
    contrastive_weight: float = 1.0,
    fast_check: bool = False,
) -> None:
    """Train one model in `folder`: last.ckpt goes on after a stop, best.ckpt has the highest validation mAP@10."""
    rate = model.audio.sample_rate
    clips = CaptionedClips(manifest, rate, data, random_part=True, seed=seed)
    seed_all(seed)
    trainer = make_trainer(
        on_this_machine(training.trainer), folder, seed, monitor="mAP@10", fast_check=fast_check, share_clips=False
    )
    sampler = CaptionSampler(
        [len(captions) for captions in clips.captions],
        training.pairs_per_batch,
        training.captions_per_clip,
        seed,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    module = RetrievalModule(model, training, teachers, contrastive_weight)
    held_out = CaptionedClips(validation, rate, data, random_part=False)
    fit(
        trainer,
        module,
        training_loader(clips, sampler, data.workers),
        evaluation_loader(held_out, 32, data.workers),
    )


def load_checkpoint(model: DualEncoder, path: Path) -> None:
    """Load the weights of a checkpoint that `train` wrote; those of a frozen text encoder are the model's own."""
    weights = weights_of(path, prefix="model.")
    if model.text.frozen:
        weights |= {name: value for name, value in model.state_dict().items() if name.startswith("text.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} holds another model than the settings describe: {error}") from error


def on_this_machine(trainer: TrainerSettings) -> TrainerSettings:
    """16-mixed is a GPU's number format: without one, or on the CPU by choice, it becomes 32-true."""
    on_cpu = trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and trainer.precision == "16-mixed":
        return trainer.model_copy(update={"precision": "32-true"})
    return trainer


@torch.inference_mode()
def embed_clips(model: DualEncoder, clips: CaptionedClips, batch_size: int) -> Tensor:
    """Every clip to a unit vector: (clips, dim) on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for batch in evaluation_loader(clips, batch_size, clips.settings.workers):
        windows = batch["windows"].to(device)
        parts.append(model.embed_audio(windows, batch["window_clip"].to(device), len(batch["clip"])).float().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_captions(model: DualEncoder, captions: Sequence[str], batch_size: int = 64) -> Tensor:
    """Captions to unit vectors: (captions, dim) on the CPU."""
    model.eval()
    vectors = model.text.encode(captions, batch_size).to(next(model.parameters()).device)
    return torch.nn.functional.normalize(model.project_text(vectors), dim=1).float().cpu()


def make_teacher(name: str, model: DualEncoder, clips: CaptionedClips, keys: list[str], batch_size: int) -> Teacher:
    """Embed the training clips and captions once, as a teacher of stage 2."""
    captions = list(dict.fromkeys(caption for group in clips.captions for caption in group))
    audio = embed_clips(model, clips, batch_size)
    return Teacher(name, model.text.caption_rule, keys, audio, captions, embed_captions(model, captions))


def _gathered(tensor: Tensor) -> Tensor:
    """Rows of all processes, with gradient, in rank order; the tensor itself when there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    if tensor.requires_grad:
        return torch.cat(all_gather(tensor))
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _gathered_captions(captions: list[str]) -> list[str]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return captions
    parts: list[list[str]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, captions)
    return [caption for part in parts for caption in part]

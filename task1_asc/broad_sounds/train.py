"""Training of one network on one part of the clips."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from common.data.loading import EpochDraws, EpochSampler
from common.data.transfer import to_device
from common.features.augment import draw_mixup, mix
from common.settings import MachineSettings, TrainerSettings
from common.training.checkpoints import save_checkpoint
from common.training.schedules import schedule_rate
from common.training.seeds import step_generator
from common.training.trainer import fit, make_trainer
from task1_asc.broad_sounds.metrics import count_indices, hierarchical_f
from task1_asc.broad_sounds.model import Rows, SoundNetwork
from task1_asc.broad_sounds.settings import Learning
from task1_asc.broad_sounds.taxonomy import CODES, TOP_OF, TOPS

SAVE_EVERY = 10
"""Epochs between two checkpoints to resume from: an epoch takes seconds, a checkpoint 150 MB."""


class BalancedSampler(EpochSampler):
    """Draws clips with replacement, rare classes more often."""

    def __init__(self, classes: Rows, balance: float, seed: int):
        super().__init__(len(classes), seed)
        frequency = np.bincount(classes, minlength=len(CODES))[classes].astype(np.float64)
        weights = np.asarray(frequency**-balance, dtype=np.float64)
        self.draws = EpochDraws(len(classes), len(classes), weights, replacement=True)

    def __iter__(self) -> Iterator[int]:
        return iter(self.draws.order(self.seed, self.epoch).tolist())


class SoundTraining(LightningModule):
    """Trains a network; logs train_loss, val_accuracy, val_hF. `best` holds the weights of the best epoch.

    Args:
        network: to train.
        learning: optimiser, loss and augmentation.
        seed: of the augmentation.
    """

    best_value: Tensor

    def __init__(self, network: SoundNetwork, learning: Learning, seed: int):
        super().__init__()
        self.network, self.learning, self.seed = network, learning, seed
        self.best = copy.deepcopy(network).requires_grad_(False).eval()
        self.register_buffer("best_value", torch.tensor(-1.0))
        self._counts = np.zeros((len(CODES), len(CODES)), dtype=np.int64)

    def configure_callbacks(self) -> list[Callback]:
        """The rule that ends the training."""
        return [EarlyStopping(f"val_{self.learning.monitor}", patience=self.learning.patience, mode="max")]

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        """Loss of one batch."""
        batch = augment(batch, self.learning, step_generator(self, self.seed, batch_index))
        losses = sound_loss(self.network(batch), batch["target"], self.learning)
        weight = batch["weight"]
        loss = (losses * weight).sum() / weight.sum().clamp(min=1e-9)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(weight))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Count the pairs of truth and prediction."""
        predicted, truth = self.network(batch).argmax(dim=1), batch["target"].argmax(dim=1)
        self._counts = self._counts + count_indices(truth.cpu().numpy(), predicted.cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        """Log the figures, and keep the best weights."""
        figures = {
            "accuracy": float(np.trace(self._counts) / self._counts.sum()),
            "hF": float(hierarchical_f(self._counts)),
        }
        self._counts = np.zeros_like(self._counts)
        self.log_dict({f"val_{name}": value for name, value in figures.items()})
        if figures[self.learning.monitor] > self.best_value:
            self.best_value.fill_(figures[self.learning.monitor])
            self.best.load_state_dict(self.network.state_dict())

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam or AdamW; the rate is halved every so many epochs."""
        kind = torch.optim.Adam if self.learning.optimizer == "adam" else torch.optim.AdamW
        rate, decay = self.learning.lr, self.learning.weight_decay
        optimizer = kind(self.network.parameters(), lr=rate, weight_decay=decay, fused=True)
        return schedule_rate(optimizer, partial(halved, every=self.learning.halve_every), "epoch")


def halved(epoch: int, every: int) -> float:
    """Factor of the learning rate."""
    return 0.5 ** (epoch // every)


def augment(batch: dict[str, Any], learning: Learning, generator: torch.Generator) -> dict[str, Any]:
    """Noise and zeros in the vectors; mixed clips, where the settings ask for it."""
    batch, changes = dict(batch), dict[str, tuple[Tensor, Tensor | None]]()
    for name in [name for name in ("audio", "text") if name in batch]:
        noise = learning.noise * torch.randn(batch[name].shape, generator=generator)
        changes[name] = (noise, draw_kept(batch[name].shape, learning.masked, generator))
    mixing = None
    if learning.mixup_alpha is not None:
        mixing = draw_mixup(len(batch["target"]), learning.mixup_alpha, generator)
    changes, mixing = to_device((changes, mixing), batch["target"].device)
    for changed, (noise, kept) in changes.items():
        noisy = batch[changed] + noise
        batch[changed] = noisy if kept is None else noisy * kept
    if mixing is not None:
        batch |= {name: mix(values, *mixing) for name, values in batch.items() if isinstance(values, Tensor)}
    return batch


def draw_kept(shape: Sequence[int], share: float, generator: torch.Generator) -> Tensor | None:
    """0 for k random numbers of each vector (batch, size) and 1 for the rest, k uniform in 1..int(share * size).

    None where int(share * size) is 0.
    """
    most = int(share * shape[1])
    if most < 1:
        return None
    order = torch.rand(shape, generator=generator)
    count = torch.randint(1, most + 1, (shape[0], 1), generator=generator)
    return (order > order.sort(dim=1).values.gather(1, count - 1)).float()


def sound_loss(logits: Tensor, target: Tensor, learning: Learning) -> Tensor:
    """Cross entropy of each clip (batch,), with that of the top level where it has a weight.

    Args:
        logits: (batch, 23).
        target: (batch, 23) probabilities.
    """
    loss = F.cross_entropy(logits, target, reduction="none", label_smoothing=learning.label_smoothing)
    if learning.hierarchical_weight == 0:
        return loss
    belongs = torch.from_numpy(TOP_OF).to(logits.device)[None] == torch.arange(len(TOPS), device=logits.device)[:, None]
    log_tops = logits.log_softmax(dim=1)[:, None].masked_fill(~belongs, -torch.inf).logsumexp(dim=2)
    return loss - learning.hierarchical_weight * (target @ belongs.to(target).mT * log_tops).sum(dim=1)


def train_network(
    network: SoundNetwork,
    learning: Learning,
    clips: Callable[[], tuple[Any, Any]],
    folder: Path,
    seed: int,
    machine: MachineSettings,
    fast_check: bool = False,
) -> None:
    """Train a network and write the weights of its best epoch: network.ckpt, metrics.csv; a finished one is kept.

    Args:
        clips: gives the loaders of training and validation.
        folder: of these files; last.ckpt, to resume from, is removed at the end.
        seed: of everything that is random in a step.
    """
    if (folder / "network.ckpt").is_file():
        return
    trainer = make_trainer(
        TrainerSettings(**machine.model_dump(), epochs=learning.epochs),
        folder,
        seed,
        fast_check=fast_check,
        save_every=SAVE_EVERY,
    )
    module = SoundTraining(network, learning, seed)
    fit(trainer, module, *clips())
    if trainer.is_global_zero:
        save_checkpoint({"state_dict": module.best.state_dict()}, folder / "network.ckpt")
        (folder / "last.ckpt").unlink(missing_ok=True)

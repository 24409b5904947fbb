"""The training loop that all tasks share: a quiet Lightning trainer whose runs can be stopped and resumed.

A resumed run ends with the same weights, bit for bit on a CPU, as an uninterrupted one: the order of the clips depends
on (seed, epoch), all random numbers of a step on (seed, step), and each epoch ends with a checkpoint.
"""

import atexit
import ctypes
import gc
import logging
import re
import sys
import time
import warnings
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from common.data.files import write_text
from common.errors import UserError
from common.output import Progress
from common.settings import TrainerSettings
from common.training.checkpoints import read_checkpoint, save_checkpoint
from common.training.seeds import seed_all


def make_trainer(
    settings: TrainerSettings,
    folder: Path,
    seed: int,
    *,
    monitor: str | None = None,
    mode: str = "max",
    fast_check: bool = False,
    callbacks: Sequence[Callback] = (),
    share_clips: bool = True,
    save_every: int = 1,
) -> Trainer:
    """A trainer that writes metrics.csv, last.ckpt and, where a metric is monitored, best.ckpt into a folder.

    Args:
        settings: length, devices, precision, loggers.
        folder: of the stage; made when absent.
        seed: with the step, decides all that is random in a training step.
        monitor: logged metric that chooses best.ckpt; None keeps only last.ckpt.
        mode: "max" or "min" of `monitor` is best.
        fast_check: two steps of one epoch of everything.
        callbacks: further callbacks.
        share_clips: let Lightning share the clips over processes; False where the samplers do.
        save_every: epochs between two last.ckpt; the last epoch has one always.

    Raises:
        UserError: if the requested devices or loggers are not available.
    """
    silence_lightning()
    # A training reads no memory before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision(settings.matmul)
    if settings.keep_memory:
        keep_freed_memory()
    Path(folder).mkdir(parents=True, exist_ok=True)
    bar = sys.stderr.isatty() and current_process().name == "MainProcess"
    progress = EpochBar(leave=False, console_kwargs={"stderr": True}) if bar else PlainProgress()
    own: list[Callback] = [
        StepSeeds(seed),
        FusedSteps(),
        *([CompiledNetworks()] if settings.compile else []),
        MetricsTable(Path(folder) / "metrics.csv"),
        KeepCheckpoints(folder, monitor, mode, save_every),
    ]
    devices = 1 if settings.devices == "auto" else settings.devices
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=settings.num_nodes,
            precision=settings.precision,
            max_epochs=1 if fast_check else settings.epochs,
            limit_train_batches=2 if fast_check else None,
            limit_val_batches=2 if fast_check else None,
            gradient_clip_val=settings.gradient_clip,
            accumulate_grad_batches=settings.accumulate,
            check_val_every_n_epoch=settings.validate_every,
            deterministic=settings.deterministic,
            logger=_loggers(settings, Path(folder)) or False,
            callbacks=[*callbacks, *own, progress],
            plugins=[WholeCheckpointIO(), *_environment(settings)],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            use_distributed_sampler=share_clips,
            enable_model_summary=False,
            enable_progress_bar=bar,
            enable_checkpointing=True,
            log_every_n_steps=10,
        )
    except (RuntimeError, ValueError) as error:  # Lightning's MisconfigurationException is not one of them
        raise UserError(f"The trainer cannot be made: {error}") from error
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException":
            raise UserError(f"The trainer cannot be made: {error}") from error
        raise


def fit(trainer: Trainer, module: LightningModule, train: Any, validation: Any = None) -> None:
    """Train; resume from last.ckpt of the folder if there is one.

    The module is set to training mode first: released weights and text encoders come in evaluation mode, and Lightning
    does not change modes. A part that must not learn overrides `train`.

    Raises:
        UserError: if last.ckpt cannot be read.
    """
    last = Path(trainer.default_root_dir) / "last.ckpt"
    module.train()
    atexit.unregister(leave_other_processes)  # a process that fails must not wait for others
    try:
        trainer.fit(module, train, validation, ckpt_path=str(last) if last.is_file() else None)
    except RuntimeError as error:
        if found := re.match(r"(\S+) does not have a deterministic implementation", str(error)):
            raise UserError(
                f"{found[1]} has no deterministic algorithm on this device; set trainer.deterministic to warn or false."
            ) from error
        raise
    except SystemExit as stop:
        if stop.code == 1:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    finally:  # figures and predictions after a training may use any algorithm
        torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=True)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(leave_other_processes)


def keep_freed_memory() -> bool:
    """Keep large buffers in the process when they are freed, so that the next step need not ask the system for pages.

    Lasts as long as the process. Returns False where the C library is not glibc, and nothing changes.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(mmap_threshold, 1 << 30)) and bool(mallopt(trim_threshold, (1 << 31) - 1))


def leave_other_processes() -> None:
    """End the process group of a distributed training at exit, before Python shuts down.

    Gloo's threads drop the tensors of their last operation late. A thread that does so during shutdown aborts the
    process (https://github.com/pytorch/pytorch/pull/179291), which torchrun reports as a failure. The threads end with
    the last reference to the group; the trainers of the stages, in cycles, hold some.
    """
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of weights: average = decay * average + (1 - decay) * model.

    Statistics (buffers) of float type are averaged too, counters are copied.
    """
    averaged, current = average.state_dict(), model.state_dict()
    floats = [name for name, value in averaged.items() if value.is_floating_point()]
    torch._foreach_lerp_([averaged[name] for name in floats], [current[name] for name in floats], 1 - decay)
    for name in averaged.keys() - floats:
        averaged[name].copy_(current[name])


def silence_lightning() -> None:
    """Silence Lightning's advice; errors are still printed."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of channels last


def _loggers(settings: TrainerSettings, folder: Path) -> list[Logger]:
    loggers: list[Logger] = []
    try:
        if settings.tensorboard:
            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        if settings.wandb is not None:
            loggers.append(WandbLogger(project=settings.wandb, save_dir=folder))
    except ModuleNotFoundError as error:
        wanted = "wandb" if settings.wandb is not None else "tensorboard"
        raise UserError(f"trainer.{wanted} needs a package that is not installed: pip install {wanted}") from error
    return loggers


def _environment(settings: TrainerSettings) -> list[Any]:
    """On SLURM, this process starts those of one machine; srun starts those of several, and the executor requeues."""
    if not SLURMEnvironment.detect():
        return []
    return [LightningEnvironment()] if settings.num_nodes == 1 else [SLURMEnvironment(auto_requeue=False)]


class StepSeeds(Callback):
    """Sets the global seeds before each training step from (seed, step), so that dropout and the like can resume."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        seed_all(self.seed, trainer.global_step, batch_idx, trainer.global_rank)


class FusedSteps(Callback):
    """On a GPU Adam and AdamW take a step in one kernel.

    Not by their argument: then Lightning would refuse to clip gradients in 16-mixed. A training that resumes keeps to
    its checkpoint.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the optimisers that have taken no step."""
        for optimizer in trainer.optimizers:
            adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
            if adam and pl_module.device.type == "cuda" and not optimizer.state:
                for group in optimizer.param_groups:
                    group["fused"] = True


class CompiledNetworks(Callback):
    """Compiles what computes most: the network, or the transformers of student and teacher; names of weights stay."""

    PLACES = ("network", "student.transformer", "teacher.transformer", "model.audio.network")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the modules; the first step compiles them."""
        for place in self.PLACES:
            part: Any = pl_module
            for name in place.split("."):
                part = getattr(part, name, None)
            if isinstance(part, nn.Module):
                part.compile()


class MovingAverage(Callback):
    """Updates the module's `average`, an exponential moving average of its `network`, after each step."""

    def __init__(self, decay: float):
        self.decay = decay

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the average."""
        assert isinstance(pl_module.average, nn.Module) and isinstance(pl_module.network, nn.Module)
        update_average(pl_module.average, pl_module.network, self.decay)


class MetricsTable(Callback):
    """One row per epoch in metrics.csv: epoch, step, seconds, learning rate and the logged metrics.

    The rows are part of the checkpoint, so a resumed run has each epoch once.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row and write the table."""
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["seconds"] = round(time.monotonic() - self._started, 3)
        for optimizer in trainer.optimizers[:1]:
            row["lr"] = float(optimizer.param_groups[0]["lr"])
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [",".join(f"{row[name]:.9g}" if name in row else "" for name in columns) for row in self.rows]
        write_text(self.path, "\n".join([",".join(columns), *lines, ""]))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows = list(state_dict["rows"])


class KeepCheckpoints(Checkpoint):
    """last.ckpt after every so many epochs; best.ckpt when the monitored metric of the validation has improved."""

    def __init__(self, folder: Path, monitor: str | None, mode: str, every: int = 1):
        self.folder, self.monitor, self.mode, self.every = Path(folder), monitor, mode, every
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after the validation and after all other callbacks."""
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        if self.monitor is not None and validated:
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is None or (value > self.best if self.mode == "max" else value < self.best):
                self.best = value
                trainer.save_checkpoint(self.folder / "best.ckpt")
        done = trainer.current_epoch + 1
        if done % self.every == 0 or trainer.should_stop or done == trainer.max_epochs:
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]


class EpochBar(RichProgressBar):
    """Lightning's bar of the steps of an epoch, with epochs counted from 1 and the time that the training takes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the first remaining epoch."""
        self.epochs = Progress("Training", trainer.max_epochs, "epochs", trainer.current_epoch, quiet=True)
        super().on_train_start(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        self.epochs.advance(current_epoch - self.epochs.done)
        return f"Epoch {current_epoch + 1}/{self.epochs.total}{self.epochs.time_left()}"


class PlainProgress(Callback):
    """A line on stderr from time to time, for logs and pipes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the first remaining epoch."""
        self.progress = Progress("Training", trainer.max_epochs, "epochs", trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch and show its metrics."""
        if trainer.is_global_zero:
            values = [f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items()]
            self.progress.advance(note="  ".join(values))


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints by `common.training.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """See `common.training.checkpoints.save_checkpoint`."""
        save_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Path | str, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_checkpoint`; never runs code, whatever `weights_only` says."""
        return read_checkpoint(path, map_location or "cpu")

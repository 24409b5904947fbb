"""The training loop that all tasks share: a quiet Lightning trainer whose runs can be stopped and resumed.

A run that was killed and resumed ends with the same weights, bit for bit on a CPU, as one that was not: the order of
the clips depends on (seed, epoch), all that is random in a step on (seed, step), and each epoch ends with a checkpoint.
"""

import atexit
import gc
import logging
import sys
import warnings
from collections.abc import Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch import nn

from common.errors import UserError
from common.settings.trainer import TrainerSettings
from common.training.callbacks import KeepCheckpoints, MetricsTable, PlainProgress, StepSeeds, WholeCheckpointIO


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
) -> Trainer:
    """A trainer that writes metrics.csv, last.ckpt and, where a metric is monitored, best.ckpt into a folder.

    Args:
        settings: length, devices, precision, loggers.
        folder: of the stage; made when absent.
        seed: with the step, decides all that is random in a training step.
        monitor: logged metric that chooses best.ckpt; None keeps only last.ckpt.
        mode: "max" or "min" of `monitor` is best.
        fast_check: two steps of one epoch of everything.
        callbacks: further ones.
        share_clips: let Lightning share the clips over processes; False where the samplers do.

    Raises:
        UserError: if the devices or a logger that was asked for are not there.
    """
    silence_lightning()
    Path(folder).mkdir(parents=True, exist_ok=True)
    bar = sys.stderr.isatty() and current_process().name == "MainProcess"
    progress = RichProgressBar(leave=False, console_kwargs={"stderr": True}) if bar else PlainProgress()
    own = [StepSeeds(seed), MetricsTable(Path(folder) / "metrics.csv"), KeepCheckpoints(folder, monitor, mode)]
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
            deterministic="warn" if settings.deterministic else False,
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
    """Train, going on from the folder's last.ckpt where there is one.

    The module is set to training mode first: released weights and text encoders come in evaluation mode, and Lightning
    leaves modes as they are. A part that must not learn overrides `train`.

    Raises:
        UserError: if last.ckpt cannot be read.
    """
    last = Path(trainer.default_root_dir) / "last.ckpt"
    module.train()
    atexit.unregister(leave_other_processes)  # a process that fails must not wait for others
    try:
        trainer.fit(module, train, validation, ckpt_path=str(last) if last.is_file() else None)
    except SystemExit as stop:
        if stop.code == 1:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit.register(leave_other_processes)


def leave_other_processes() -> None:
    """End the group of processes that trained together; done when a process ends, while Python still works.

    Gloo's threads drop the tensors of their last operation when they get to it. One that does so while Python shuts
    down aborts the process (https://github.com/pytorch/pytorch/pull/179291), which torchrun takes for a failure.
    The threads end with the last reference to the group, and the trainers of the stages, in cycles, hold some.
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
    """Keep Lightning's advice about itself away from users; errors still come."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*(LeafSpec|does not have a deterministic implementation).*")
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
    """On SLURM: one machine is started from here; several are started by srun, and requeued by the sweep, not here."""
    if not SLURMEnvironment.detect():
        return []
    return [LightningEnvironment()] if settings.num_nodes == 1 else [SLURMEnvironment(auto_requeue=False)]

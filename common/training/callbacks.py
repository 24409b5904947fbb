"""Lightning callbacks: seeds of each step, the metrics table, checkpoints, progress."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from common.files import atomic_write
from common.output import Progress
from common.training.checkpoints import read_checkpoint, save_checkpoint
from common.training.seeds import seed_all


class StepSeeds(Callback):
    """Sets the global seeds before each training step from (seed, step): dropout and the like can be resumed."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        seed_all(self.seed, trainer.global_step, batch_idx, trainer.global_rank)


class MetricsTable(Callback):
    """One row per epoch in metrics.csv: epoch, step, seconds, learning rate and all that was logged.

    The rows travel in the checkpoint, so that after a resume the table holds each epoch once.
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
        with atomic_write(self.path) as file:
            file.write("\n".join([",".join(columns), *lines, ""]))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])


class KeepCheckpoints(Checkpoint):
    """last.ckpt after each epoch; best.ckpt when the monitored metric of the validation is better than before."""

    def __init__(self, folder: Path, monitor: str | None, mode: str):
        self.folder, self.monitor, self.mode = Path(folder), monitor, mode
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; Lightning calls this after the validation and after all other callbacks."""
        validated = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0
        if self.monitor is not None and validated:
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is None or (value > self.best if self.mode == "max" else value < self.best):
                self.best = value
                trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best value of a checkpoint."""
        self.best = state_dict["best"]


class PlainProgress(Callback):
    """A line on stderr now and then, for logs and pipes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting at the first epoch that is left."""
        self.progress = Progress("Training", trainer.max_epochs, "epochs", trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch, with what was logged."""
        if trainer.is_global_zero:
            values = [f"{name} {float(value):.4g}" for name, value in trainer.callback_metrics.items()]
            self.progress.advance(note="  ".join(values))


class WholeCheckpointIO(TorchCheckpointIO):
    """What Lightning saves and loads through."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """See `common.training.checkpoints.save_checkpoint`."""
        save_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Path | str, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read_checkpoint`; never runs code, whatever `weights_only` says."""
        return read_checkpoint(path, map_location or "cpu")

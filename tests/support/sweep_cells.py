"""A small settings class and cell functions for tests of sweeps; other processes import them from here."""

import os
import time
from pathlib import Path

from common.errors import UserError
from common.output import say
from common.settings import Field, Settings


class Optim(Settings):
    """Nested, so that dotted names are tried."""

    lr: float = Field(0.1, gt=0)
    """Any number."""


class CellSettings(Settings):
    """Settings of a made-up training."""

    name: str = "run"
    """Name of the run."""
    subset: int = 5
    """Any number."""
    seed: int = 0
    """Any number."""
    folder: Path = Path()
    """Where calls are noted."""
    sleep_s: float = 0.0
    """How long a step takes."""
    optim: Optim = Optim()
    """Nested."""


def note_call(settings: CellSettings, word: str = "started") -> None:
    with (settings.folder / "calls.txt").open("a") as file:
        file.write(f"{word} {settings.subset} {settings.seed} {os.getpid()}\n")


def train(settings: CellSettings) -> dict:
    """A training of four steps that goes on where it stopped."""
    note_call(settings)
    path = settings.folder / f"{settings.name}.step"
    for step in range(int(path.read_text()) if path.exists() else 0, 4):
        time.sleep(settings.sleep_s)
        path.write_text(str(step + 1))
        note_call(settings, f"step{step}")
    return {"accuracy": settings.subset / 3 + settings.seed, "lr": settings.optim.lr}


def say_and_train(settings: CellSettings) -> dict:
    say("training")
    return train(settings)


def fail_sometimes(settings: CellSettings) -> dict:
    if settings.seed == 1 and not (settings.folder / "mended").exists():
        raise UserError("clip a.wav is missing. Run `data download`.")
    if settings.seed == 2:
        raise ZeroDivisionError("division by zero")
    return train(settings)


def die(settings: CellSettings) -> dict:
    if settings.seed == 1:
        os._exit(9)
    return train(settings)

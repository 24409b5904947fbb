"""Runs on sounds of every kind are no models of sound alone."""

from pathlib import Path

from common.errors import UserError
from common.models.audio_model import AudioModel


def load_run(folder: Path) -> AudioModel:
    """Refuse the run (UserError)."""
    raise UserError(
        f"{folder} classifies vectors of sounds and texts, not audio files; use "
        f"`python -m task1_asc sounds predict {folder} --root DIR`."
    )

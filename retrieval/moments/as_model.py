"""Runs on moments are no models of sound alone."""

from pathlib import Path

from common.errors import UserError
from common.models.audio_model import AudioModel


def load_run(folder: Path) -> AudioModel:
    """Refuse the run (UserError)."""
    raise UserError(
        f"{folder} finds moments for a sentence, in vectors of audio; use "
        f"`python -m retrieval moments predict {folder} --root DIR`."
    )

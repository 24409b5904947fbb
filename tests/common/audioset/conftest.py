"""Clips for fine-tuning."""

import numpy as np
import pytest
import soundfile


@pytest.fixture
def tones(tmp_path):
    """Clips of two classes in two folds: low tones and high tones of 1 s, which any network can tell apart."""
    (tmp_path / "audio").mkdir()
    rows = ["filename,label,fold"]
    for number in range(24):
        hertz = (300 if number % 2 else 3000) * (1 + 0.02 * number)
        wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", wave, 16000)
        rows.append(f"{number}.wav,{'low' if number % 2 else 'high'},{1 + number // 12}")
    (tmp_path / "tones.csv").write_text("\n".join(rows) + "\n")
    return tmp_path

"""A FLAC header that claims 2^36 samples: reading in blocks allocates memory for a block, not for the claim."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from common.data.audio import AudioError, read_blocks


def test_a_claim_costs_no_memory(tmp_path):
    path = tmp_path / "claims.flac"
    soundfile.write(path, np.zeros(16000), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the last 36 bits of STREAMINFO's fixed part: the number of samples
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    assert soundfile.info(path).frames == 2**36 - 1
    tracemalloc.start()
    with pytest.raises(AudioError, match=r"claims\.flac is"):
        list(read_blocks(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6

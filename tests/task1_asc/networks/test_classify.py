"""Logits of a loader's clips: how many batches are read, and in which precision they come."""

import numpy as np
import pytest
import torch
from torch import nn

from task1_asc.networks.classify import classify_with


class Sums(nn.Module):
    """Two logits of a clip: its sum and the opposite."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype

    def forward(self, spectrogram, _devices):
        total = spectrogram.sum(dim=1, keepdim=True)
        return torch.cat([total, -total], dim=1).to(self.dtype)


BATCHES = [
    {"waveform": torch.full((2, 3), float(number)), "filename": [f"{number}a", f"{number}b"]} for number in range(4)
]


@pytest.mark.parametrize(("limit", "count"), [(None, 4), (1, 1), (3, 3), (9, 4)])
def test_a_check_reads_as_many_batches_as_it_was_told(limit, count):
    read = []
    loader = (read.append(number) or batch for number, batch in enumerate(BATCHES))
    logits, names = classify_with(nn.Identity(), {"sums": Sums()}, loader, limit=limit)
    assert names == [name for batch in BATCHES[:count] for name in batch["filename"]]
    assert logits["sums"].tolist() == [[3.0 * n, -3.0 * n] for n in range(count) for _ in range(2)]
    assert len(read) <= count + 1


def test_logits_keep_their_precision_but_bfloat16_which_numpy_does_not_know():
    networks = {"half": Sums(torch.float16), "short": Sums(torch.bfloat16), "single": Sums()}
    logits, _ = classify_with(nn.Identity(), networks, BATCHES)
    assert {name: part.dtype for name, part in logits.items()} == {
        "half": np.float16, "short": np.float32, "single": np.float32,
    }  # fmt: skip

"""What the official models compute, and weights and signals that anybody can draw again.

A case in tests/golden pins an official model without its weights: every tensor of the state dict is drawn from a
generator seeded by the CRC-32 of the tensor's own name (NumPy's legacy generator, whose values never change), scaled
where the json says so. The json holds names and shapes, the npz what the official code made of them.
"""

import json
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.support.places import GOLDEN


def drawn_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of the state-dict entry `key`: about unit gain for weights, sane statistics for batch norms."""
    draw = np.random.RandomState(zlib.crc32(key.encode()))
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last == "running_var":
        return np.float32(0.5 + draw.random_sample(shape))
    values = draw.standard_normal(shape)
    if last == "running_mean":
        return np.float32(0.1 * values)
    if len(shape) <= 1:
        return np.float32((1.0 if key.endswith(("weight", "weight_g")) else 0.0) + 0.1 * values)
    return np.float32(values / np.sqrt(np.prod(shape[1:], dtype=int)))


def drawn_waveform(name: str, num_samples: int, sample_rate: int) -> np.ndarray:
    """A chirp up, from a third on a chirp down, wandering noise and one click; (num_samples,), -1..1."""
    draw = np.random.RandomState(zlib.crc32(name.encode()))
    duration = num_samples / sample_rate
    seconds = np.arange(num_samples) / sample_rate
    low, high = 80.0 + 100.0 * draw.random_sample(), 0.35 * sample_rate
    sweep = (high - low) * seconds**2 / (2 * duration)
    noise = np.cumsum(draw.standard_normal(num_samples))
    noise = noise - np.linspace(noise[0], noise[-1], num_samples)
    noise = noise / (np.abs(noise).max() + 1e-9)
    signal = 0.3 * np.sin(2 * np.pi * (low * seconds + sweep))
    signal = signal + 0.2 * np.sin(2 * np.pi * (high * seconds - sweep)) * (seconds > duration / 3) + 0.2 * noise
    signal[int(0.6 * num_samples)] += 0.8
    return np.float32(np.clip(signal, -1.0, 1.0))


NETWORKS = GOLDEN / "networks"
"""Cases of networks that are no models of the registry."""


@dataclass(frozen=True)
class GoldenCase:
    """One official model: `info` is the json, `expected(name)` what the official code stored under that name."""

    name: str
    folder: Path = GOLDEN

    @cached_property
    def info(self) -> dict:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything in the npz; empty where only the key layout is given."""
        path = self.folder / f"{self.name}.npz"
        return dict(np.load(path)) if path.exists() else {}

    def expected(self, output: str) -> Tensor:
        """The stored (often thinned) official output."""
        return torch.from_numpy(self.arrays[output])

    def thinned(self, output: str, values: Tensor) -> Tensor:
        """Our full `values`, cut to the slice of `output` that was stored (where the json names it)."""
        stored = self.info["outputs"][output].get("stored", "[...]")
        steps = [int(step) if step else 1 for step in re.findall(r":(?::(\d+))?(?=[,\]])", stored)]
        return values[tuple(slice(None, None, step) for step in steps)]

    def waveform(self, which: str = "input") -> Tensor:
        """(batch, samples); `which` may be "second_input"."""
        made = self.info[which]
        names = made.get("batch") or made["name"]
        return torch.from_numpy(
            np.stack([drawn_waveform(name, made["num_samples"], made["sample_rate"]) for name in names])
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The official state dict, without the tables that the code computes itself (kind "fixed")."""
        state = {}
        for key, entry in self.info["state_dict"].items():
            if entry["kind"] == "fixed":
                continue
            values = drawn_tensor(entry.get("tied_to", key), tuple(entry["shape"]))
            if "scale" in entry:
                values = np.float32(entry["scale"]) * values
            state[key] = torch.from_numpy(values)
        return state


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the spread (standard deviation) of what is expected."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} instead of {tuple(expected.shape)}"
    return float((actual.double() - expected.double()).abs().max() / expected.double().std())

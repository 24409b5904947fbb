"""Retrieval: memory and time of the distillation target, and the padding that is not encoded.

    python -m tests.benchmarks.bench_retrieval [--pairs 5]

Each pair runs both sides in turn; medians and their ratio are printed.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from retrieval.losses import estimated_correspondences

BATCH, TEACHERS, DIM = 512, 3, 1024


def plain_correspondences(audio: Tensor, text: Tensor) -> Tensor:
    """Element products of all pairs, summed: (batch, batch, teachers, dim) is built, as in the published code."""
    audio, text = functional.normalize(audio, dim=-1), functional.normalize(text, dim=-1)
    return (audio[:, None] * text[None]).sum(dim=-1).mean(dim=-1)


def teachers() -> tuple[Tensor, Tensor]:
    """Random embeddings of three teachers for a batch of 512 pairs."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(BATCH, TEACHERS, DIM, generator=generator) for _ in range(2))


def compare(name: str, plain: Callable[[], object], ours: Callable[[], object], pairs: int, aim: float) -> None:
    """Print medians of alternating runs and their ratio."""
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    plain(), ours()
    for _ in range(pairs):
        for side, call in (("plain", plain), ("ours", ours)):
            start = time.perf_counter()
            call()
            times[side].append(time.perf_counter() - start)
    before, after = (statistics.median(times[side]) for side in ("plain", "ours"))
    print(f"{name}: {before:.3f} s against {after:.3f} s, {before / after:.1f}x (aim {aim:g}x)")


def peak_megabytes(side: str) -> float:
    """Peak memory of a process that computes the targets once, less that of one that only draws the inputs."""

    def run(what: str) -> float:
        command = [sys.executable, "-m", "tests.benchmarks.bench_retrieval", "--one", what]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return run(side) - run("nothing")


def one(side: str) -> None:
    """For `peak_megabytes`."""
    audio, text = teachers()
    if side == "plain":
        plain_correspondences(audio, text)
    elif side == "ours":
        estimated_correspondences(audio.unbind(1), text.unbind(1))
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def padded_step(seconds: int) -> Callable[[], object]:
    """A training step of mn04 on four 10-s clips, each as 10-s windows of `seconds` of audio (silence behind)."""
    from common.registry.models import create_audio_model

    torch.manual_seed(0)
    model = create_audio_model("mn04").train()
    windows = torch.zeros(4 * seconds // 10, 320000)
    windows[:: seconds // 10] = 0.1 * torch.randn(4, 320000)

    def step() -> None:
        model.zero_grad()
        model(windows).embedding.square().mean().backward()

    return step


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", help="internal")
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one)
        return
    audio, text = teachers()
    difference = (
        (plain_correspondences(audio, text) - estimated_correspondences(audio.unbind(1), text.unbind(1))).abs().max()
    )
    print(f"targets of {BATCH} pairs, {TEACHERS} teachers: largest difference {difference:.1e}")
    plain, few = peak_megabytes("plain"), peak_megabytes("ours")
    print(f"memory of the targets: {plain:.0f} MB against {few:.0f} MB, {plain / max(few, 1):.0f}x (aim 20x)")
    compare(
        "time of the targets",
        lambda: plain_correspondences(audio, text),
        lambda: estimated_correspondences(audio.unbind(1), text.unbind(1)),
        arguments.pairs,
        5,
    )
    compare("step on 10-s clips, padded to 30 s", padded_step(30), padded_step(10), arguments.pairs, 2.5)


if __name__ == "__main__":
    main()

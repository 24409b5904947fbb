"""One training step of QD-DETR against the time of its own matrix products alone.

    python -m tests.benchmarks.bench_moments_step [--batch 32] [--seconds 267] [--words 9] [--steps 5]

The published sizes by default; CASTELLA's recordings have 267 s on average. The products of one step (forward and
backward, those of attention included) are recorded with their shapes, then repeated on random numbers. One thread,
processor time, both in turns; then the operations that take the most time.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from common.output import print_table
from retrieval.moments.data import collate
from retrieval.moments.losses import draw_targets, make_targets, moment_losses
from retrieval.moments.network import QDDETR
from retrieval.moments.settings import Losses

DIM = 768
Pair = tuple[torch.Size, torch.Size]


class Products(TorchDispatchMode):
    """Records the shapes of all matrix products within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[Pair] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.pairs.append((args[0].shape, args[1].shape))
        elif name == "addmm":
            self.pairs.append((args[1].shape, args[2].shape))
        elif name.startswith("_scaled_dot_product"):
            backward = name.endswith("backward")
            query, key, value = args[1:4] if backward else args[:3]
            scores = torch.Size([*query.shape[:-1], key.shape[-2]])
            turned = torch.Size([*scores[:-2], scores[-1], scores[-2]])
            self.pairs += [(query.shape, key.mT.shape), (scores, value.shape)]
            if backward:  # of the scores and of the values; the scores are computed again
                self.pairs += [(turned, query.shape), (scores, key.shape), (turned, query.shape)]
        return func(*args, **(kwargs or {}))


def make_step(batch: int, seconds: int, words: int) -> Any:
    """A function that does one training step on random features."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(max(2, seconds - 33), seconds + 34, batch)
    audio = [rng.standard_normal((length, DIM), np.float32) for length in lengths]
    text = [
        rng.standard_normal((length, DIM), np.float32) for length in rng.integers(max(1, words - 4), words + 5, batch)
    ]
    windows = [np.sort(rng.uniform(0, length, (3, 2)), axis=1) + np.array([0, 1]) for length in lengths]
    draws = [draw_targets(one, int(length), 5, rng) for one, length in zip(windows, lengths, strict=True)]
    inputs = collate(audio, text, [float(length) for length in lengths], draws)
    model = QDDETR().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        output = model(inputs.audio, inputs.audio_mask, inputs.text, inputs.text_mask)
        targets = make_targets(inputs.draws, inputs.durations, inputs.audio_mask)
        torch.stack([*moment_losses(output, inputs.audio_mask, targets, Losses()).values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"batch": 32, "seconds": 267, "words": 9, "steps": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    step = make_step(chosen.batch, chosen.seconds, chosen.words)
    step()
    with Products() as products:
        step()
    operands = [tuple(torch.randn(shape) for shape in pair) for pair in products.pairs]
    times: dict[str, list[float]] = {"step": [], "products": []}
    for _ in range(chosen.steps):
        start = time.process_time()
        step()
        middle = time.process_time()
        for first, second in operands:
            torch.matmul(first, second)
        times["step"].append(middle - start)
        times["products"].append(time.process_time() - middle)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    operations = sum(2 * np.prod(first) * second[-1] for first, second in products.pairs)
    row = {"step (s)": round(seconds["step"], 3), "its products alone (s)": round(seconds["products"], 3)}
    ratio = {"ratio": round(seconds["step"] / seconds["products"], 2), "10^9 operations": round(operations / 1e9)}
    print_table([row | ratio], title=f"QD-DETR, batch {chosen.batch}, {chosen.seconds} s, one thread")
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    whole = sum(event.self_cpu_time_total for event in found.key_averages())
    slowest = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)[:10]
    rows = [
        {"operation": e.key, "share in %": round(100 * e.self_cpu_time_total / whole, 1), "calls": e.count}
        for e in slowest
    ]
    print_table(rows, title="Profile of a step")


if __name__ == "__main__":
    main()

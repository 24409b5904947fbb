"""Time of the frame-level transformers against the same networks written out plainly.

    python -m tests.benchmarks.bench_transformers [--batch 16] [--threads 2] [--pairs 5] [--bf16] [--device cuda]

10-s clips, forward pass in evaluation. Plain and fused passes take turns; the medians and their ratio are printed. With
one thread the time is the processor time of this process, so what else runs on the machine hardly counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from common.models.beats import GatedAttention
from common.models.encoder import Attention, Mlp
from common.registry.models import create_audio_model

AIMS = {"atst_frame": 1.4, "asit": 1.4, "beats": 1.2, "fpasst": None, "m2d": None}


def plain_attention(self: Attention, tokens: Tensor) -> Tensor:
    """`Attention.forward` in four steps."""
    batch, length, dim = tokens.shape
    qkv = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv[0], qkv[1], qkv[2]
    weights = (query @ key.transpose(-2, -1)) * (dim // self.num_heads) ** -0.5
    weights = weights.softmax(dim=-1)
    return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, dim))


def plain_gated_attention(self: GatedAttention, tokens: Tensor, bias: Tensor) -> Tensor:
    """`GatedAttention.forward` in its steps, with the gate as the authors write it."""
    batch, length, dim = tokens.shape
    shape = (batch, length, self.num_heads, dim // self.num_heads)
    query = self.q_proj(tokens).view(shape).transpose(1, 2)
    key = self.k_proj(tokens).view(shape).transpose(1, 2)
    value = self.v_proj(tokens).view(shape).transpose(1, 2)
    parts = self.grep_linear(query).view(batch, self.num_heads, length, 2, 4).sum(dim=-1).sigmoid()
    first, second = parts.chunk(2, dim=-1)
    gate = first * (second * self.grep_a - 1.0) + 2.0
    weights = (query @ key.transpose(-2, -1)) * shape[-1] ** -0.5 + gate * bias
    weights = weights.softmax(dim=-1)
    return self.out_proj((weights @ value).transpose(1, 2).reshape(batch, length, dim))


def plain_mlp(self: Mlp, tokens: Tensor) -> Tensor:
    """`Mlp.forward` with a tensor for every step."""
    return self.fc2(F.gelu(self.fc1(tokens)))


@contextmanager
def written_out() -> Any:
    """All attention and feed-forward layers compute plainly inside."""
    with (
        mock.patch.object(Mlp, "forward", plain_mlp),
        mock.patch.object(Attention, "forward", plain_attention),
        mock.patch.object(GatedAttention, "forward", plain_gated_attention),
    ):
        yield


def measure(work: Callable[[], Any], device: str) -> float:
    """Seconds of one call."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@torch.inference_mode()
def compare(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Medians in seconds and the largest difference of the frame logits, over their spread."""
    model = create_audio_model(name).eval().to(args.device)
    waveform = 0.1 * torch.randn(args.batch, 160000, generator=torch.Generator().manual_seed(0))
    spectrogram = model.front_end(waveform.to(args.device))
    precision = torch.autocast(args.device, torch.bfloat16) if args.bf16 else nullcontext()

    def fused() -> Tensor:
        with precision:
            return model.network(spectrogram).frame_logits

    def plain() -> Tensor:
        with written_out(), nullcontext() if args.against_fp32 else precision:
            return model.network(spectrogram).frame_logits

    expected, actual = plain().float(), fused().float()
    times: dict[str, list[float]] = {"plain": [], "fused": []}
    for _ in range(args.pairs):
        times["plain"].append(measure(plain, args.device))
        times["fused"].append(measure(fused, args.device))
    medians = {key: statistics.median(values) for key, values in times.items()}
    pairs = [plain / fused for plain, fused in zip(times["plain"], times["fused"], strict=True)]
    difference = float((actual - expected).abs().max() / expected.std())
    return medians | {"ratio": statistics.median(pairs), "difference": difference}


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(AIMS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="both sides under bfloat16 autocast")
    parser.add_argument("--against_fp32", action="store_true", help="with --bf16: the plain side stays in float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"batch {args.batch} x 10 s, {args.device}, {args.threads} threads, {'bf16' if args.bf16 else 'fp32'}")
    print(f"{'model':12}{'plain s':>10}{'fused s':>10}{'ratio':>8}{'aim':>6}   largest difference / spread")
    for name in args.models:
        row = compare(name, args)
        aim = AIMS.get(name) or ""
        print(
            f"{name:12}{row['plain']:10.3f}{row['fused']:10.3f}{row['ratio']:8.2f}{aim!s:>6}   {row['difference']:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

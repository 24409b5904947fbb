"""Forward passes of MN, DyMN and PaSST against the same networks written plainly, and batched HEAR timestamps.

    python -m tests.benchmarks.bench_models [--models mn10 dymn10 passt_s hear package] [--batches 4 16] [--pairs 5]

Plain means: batch norms on their own, contiguous memory, attention as two products with a softmax between them, dynamic
convolutions and dynamic ReLU as in their papers. Both run in turn; medians, and the median of the ratios, are printed.
PaSST is also compared with hear21passt where that package is installed. On a busy machine count the processor's time of
one thread (--threads 1 --cpu_time).
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.inference import hear
from common.inference.hear_names import parse_name
from common.inference.prepare import prepare_for_inference
from common.models.dynamic_mobilenet import DynamicBlock, DynamicReLU
from common.models.encoder import Attention
from common.registry.models import create_audio_model

SECONDS = 10
clock = time.perf_counter


class PlainAttention(nn.Module):
    """Attention with its matrix in memory."""

    def __init__(self, attention: Attention):
        super().__init__()
        self.qkv, self.proj, self.num_heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query @ key.mT * (dim // self.num_heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, dim))


class PlainDynamicReLU(nn.Module):
    """Dynamic ReLU on a map with one more dimension for the lines, as EfficientAT writes it."""

    def __init__(self, relu: DynamicReLU):
        super().__init__()
        self.relu = relu

    def forward(self, maps: Tensor, context: Tensor) -> Tensor:
        slopes, offsets = (values[:, :, None, None] for values in self.relu.lines(context))
        lines = maps.unsqueeze(-1) * slopes + offsets
        return torch.maximum(lines[..., 0], lines[..., 1])


def plain(network: nn.Module) -> nn.Module:
    """A copy with the plain parts in place of ours."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, DynamicBlock):
            module.depth_act = PlainDynamicReLU(module.depth_act)
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, PlainAttention(child))
    return network


def compare(first: Callable[[], object], second: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of first / second over pairs that run in turn."""
    first(), second()
    times = []
    for _ in range(pairs):
        started = clock()
        first()
        between = clock()
        second()
        times.append((between - started, clock() - between))
    ours = statistics.median(b for _, b in times)
    return statistics.median(a for a, _ in times), ours, statistics.median(a / b for a, b in times)


def report(what: str, result: tuple[float, float, float], difference: float | None = None) -> None:
    """One line."""
    close = "" if difference is None else f", outputs differ by {difference:.1e}"
    print(f"{what}: plain {result[0]:.3f} s, ours {result[1]:.3f} s, ratio {result[2]:.2f}{close}", flush=True)


@torch.inference_mode()
def forward(name: str, batch: int, pairs: int) -> None:
    """The network of a model on spectrograms of ten seconds."""
    torch.manual_seed(0)
    model = create_audio_model(name).eval()
    network = plain(model.network)
    spectrogram = model.front_end(torch.randn(batch, SECONDS * model.sample_rate) / 10)
    prepare_for_inference(model)
    for module in network.modules():
        assert not isinstance(module, Attention)
    theirs, ours = network(spectrogram).embedding, model.network(spectrogram).embedding
    difference = float((theirs - ours).abs().max() / theirs.std().clamp(min=1e-12))
    times = compare(lambda: network(spectrogram), lambda: model.network(spectrogram), pairs)
    report(f"{name}, batch {batch}", times, difference)


@torch.inference_mode()
def timestamps(pairs: int) -> None:
    """HEAR timestamps of one ten-second clip with mn10: one window at a time, and in batches."""
    model = create_audio_model("mn10.as").eval()
    audio = torch.randn(1, SECONDS * model.sample_rate) / 10
    reference = hear.HearModel(copy.deepcopy(model).eval(), parse_name("mn10_all_b_mel_avgs"))
    fast = hear.HearModel(prepare_for_inference(model), parse_name("mn10_all_b_mel_avgs"))

    def one_by_one() -> Tensor:
        padded = F.pad(audio.unsqueeze(1), (2560, 2560), mode="reflect").squeeze(1)
        return torch.stack([reference.features(window) for window in padded.unfold(1, 5120, 1600).unbind(1)], dim=1)

    def batched() -> Tensor:
        return hear.get_timestamp_embeddings(audio, fast)[0]

    theirs = one_by_one()
    difference = float((theirs - batched()).abs().max() / theirs.std())
    report("HEAR timestamps of 10 s, mn10", compare(one_by_one, batched, pairs), difference)


@torch.inference_mode()
def package(batch: int, pairs: int) -> None:
    """PaSST of the package hear21passt, with random weights, where it is installed."""
    try:
        from hear21passt.models.passt import PaSST as TheirPaSST
    except ImportError:
        print("hear21passt is not installed: not compared with it")
        return
    model = create_audio_model("passt_s_swa").eval()
    options = {"stride": (10, 10), "img_size": (128, 998), "num_classes": 527, "distilled": True}
    their_network = TheirPaSST(**options).eval()
    their_network.load_state_dict(model.network.state_dict())
    spectrogram = model.front_end(torch.randn(batch, SECONDS * model.sample_rate) / 10)
    theirs, ours = their_network(spectrogram)[1], model.network(spectrogram).embedding
    difference = float((theirs - ours).abs().max() / theirs.std())
    times = compare(lambda: their_network(spectrogram), lambda: model.network(spectrogram), pairs)
    report(f"hear21passt, batch {batch}", times, difference)


def main() -> None:
    """Read the command line and run what it names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="*", default=["mn04", "mn10", "dymn04", "dymn10", "passt_s", "hear", "package"]
    )
    parser.add_argument("--batches", nargs="*", type=int, default=[4, 16])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu_time", action="store_true")
    options = parser.parse_args()
    if options.cpu_time:
        global clock
        clock = time.process_time
    torch.set_num_threads(options.threads)
    for name in options.models:
        if name == "hear":
            timestamps(options.pairs)
            continue
        for batch in options.batches:
            package(batch, options.pairs) if name == "package" else forward(name, batch, options.pairs)


if __name__ == "__main__":
    main()

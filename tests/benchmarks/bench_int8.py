"""One second of sound, batch 1, one thread: the student in float32 and in int8, by PyTorch and by ONNX Runtime.

    python -m tests.benchmarks.bench_int8 [--pairs 51] [--cpu_time]

The network of distilled.yaml, its batch norms folded for float32 too, with random weights; the spectrogram is there
already. Forms take turns; ratios are those of calls beside each other. ONNX Runtime is left out where it is missing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from common.inference.export import PARTS
from common.inference.quantize import folded_copy, quantize_trained
from common.settings import load_settings
from task1_asc.export import open_session, write_float32, write_int8
from task1_asc.networks.build import KEPT_FLOAT, input_shape, make_network
from task1_asc.networks.classify import DeviceNetworks
from task1_asc.settings import Task1Settings

DISTILLED = Path("task1_asc/configs/distilled.yaml")
WARM_UP = 5


def forms(folder: Path) -> tuple[dict[str, Callable[[torch.Tensor], Any]], tuple[int, ...]]:
    """Name to a call with one spectrogram, and its shape."""
    settings = load_settings(Task1Settings, DISTILLED)
    shape = input_shape(settings)
    torch.manual_seed(0)
    network = make_network(settings.model).train()
    spectrograms = [torch.randn(8, *shape[1:]) for _ in range(4)]
    for spectrogram in spectrograms:
        network(spectrogram)
    network.eval()
    plain = folded_copy(network).to(memory_format=torch.channels_last)
    with torch.no_grad():
        quantized = quantize_trained(network, spectrograms, KEPT_FLOAT)
    found: dict[str, Callable[[torch.Tensor], Any]] = {
        "PyTorch float32": DeviceNetworks(plain).eval(),
        "PyTorch int8": DeviceNetworks(quantized).eval(),
    }
    if all(find_spec(part) for part in PARTS):
        write_float32(folded_copy(network), shape, folder / "float32.onnx")
        write_int8(folded_copy(network), shape, folder / "int8.onnx", iter(spectrograms))
        found |= {
            "ONNX float32": open_session(folder / "float32.onnx"),
            "ONNX int8": open_session(folder / "int8.onnx"),
        }
    return found, shape


@torch.inference_mode()
def main() -> None:
    """Print the median of each form, and how much quicker int8 is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=51)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        calls, shape = forms(Path(folder))
    times: dict[str, list[float]] = {name: [] for name in calls}
    spectrogram = torch.randn(shape)
    for pair in range(WARM_UP + arguments.pairs):
        for name, call in calls.items():
            start = clock()
            call(spectrogram)
            if pair >= WARM_UP:
                times[name].append(clock() - start)
    for library in ("PyTorch", "ONNX"):
        if f"{library} int8" not in times:
            print(f"{library} Runtime is not installed: left out")
            continue
        single, quantized = times[f"{library} float32"], times[f"{library} int8"]
        ratios = sorted(first / second for first, second in zip(single, quantized))
        medians = [1000 * statistics.median(values) for values in (single, quantized)]
        print(
            f"{library}: float32 {medians[0]:.2f} ms, int8 {medians[1]:.2f} ms, median ratio "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()

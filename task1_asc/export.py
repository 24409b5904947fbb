"""A trained network as ONNX in float32, float16 and int8, beside PyTorch's: size, latency on a CPU, accuracy."""

import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.files import atomic_path, write_json
from common.inference.complexity import count_parameters, stored_bytes
from common.inference.export import need_parts, write_onnx
from common.inference.quantize import folded_copy
from common.runs.run import Run
from task1_asc.data.clips import open_development, read_training_clips, scene_loader
from task1_asc.data.tau2022 import CLASSES, read_split
from task1_asc.metrics import macro_accuracy
from task1_asc.networks.build import input_shape, load_int8_networks, load_run_networks
from task1_asc.networks.classify import DeviceNetworks, InHalf
from task1_asc.settings import Task1Settings
from task1_asc.submission.packaged import LogitsOnly

CALLS, WARM_UP = 50, 5
CALIBRATION = 256


def export_run(run: Run[Task1Settings], out: Path | None = None) -> list[dict[str, Any]]:
    """Write a run's general network as ONNX, spectrogram to logits; compare cost and accuracy of each form.

    float16 keeps float32 at input and output. int8 is quantised by ONNX Runtime (a scale per channel for weights, one
    per tensor for activations of convolutions) with training clips; in a quantised run it has the weights of the run's
    own 8-bit network.

    Args:
        run: finished.
        out: folder; None takes RUN/export. table.json is written beside the files.

    Returns:
        A row for each form: bytes of the parameters and of the file, milliseconds for one second of sound (batch 1, one
        thread, the network alone), macro accuracy on the test split, and agreement with PyTorch's float32.

    Raises:
        UserError: if onnx, onnxscript or onnxruntime is missing.
    """
    need_parts()
    out = out or run.folder / "export"
    clips = read_training_clips(run.settings)
    front_end, networks = load_run_networks(run, clips.sample_rate)
    front_end, single = front_end.cpu(), DeviceNetworks(networks.base_model.cpu())
    shape = input_shape(run.settings, clips.sample_rate)
    plain = folded_copy(single.base_model)
    quantized = None
    if run.settings.quantization is not None:
        quantized = load_int8_networks(run, DeviceNetworks(single.base_model), clips.sample_rate)
        take_weights(plain_int8 := copy.deepcopy(plain), quantized.base_model)
    half = InHalf(single)
    forms: dict[str, tuple[Callable[[Tensor], NDArray], int, Path | None]] = {
        "PyTorch float32": (_runner(single), stored_bytes(single), None),
        "PyTorch float16": (_runner(half), stored_bytes(half), None),
    }
    if quantized is not None:
        forms["PyTorch int8"] = (_runner(quantized), stored_bytes(quantized), None)
    parameters = count_parameters(plain)
    paths = {name: out / f"{run.settings.model.name}_{name}.onnx" for name in ("float32", "float16", "int8")}
    write_float32(plain, shape, paths["float32"])
    write_float16(paths["float32"], paths["float16"])
    calibration = _spectrograms(run, front_end, clips.some(CALIBRATION, run.settings.seed))
    write_int8(plain if quantized is None else plain_int8, shape, paths["int8"], calibration)
    for name, path in paths.items():
        size = stored_bytes(quantized) if name == "int8" and quantized is not None else None
        each = {"float32": 4, "float16": 2, "int8": 1}[name]
        forms[f"ONNX {name}"] = (open_session(path), size or each * parameters, path)
    rows = compare(run, front_end, forms, shape)
    write_json(out / "table.json", rows)
    return rows


def compare(
    run: Run[Task1Settings],
    front_end: nn.Module,
    forms: dict[str, tuple[Callable[[Tensor], NDArray], int, Path | None]],
    shape: tuple[int, ...],
) -> list[dict[str, Any]]:
    """A row for each form, see `export_run`."""
    test = read_split(run.settings.data.root, "test")
    target = np.array([CLASSES.index(label) for label in test["scene_label"]])
    said: dict[str, list[NDArray]] = {name: [] for name in forms}
    for spectrogram in _spectrograms(run, front_end, test):
        for name, (call, _, _) in forms.items():
            said[name].append(call(spectrogram))
    rows = []
    reference = np.concatenate(said["PyTorch float32"]).argmax(axis=1)
    for name, (call, parameter_bytes, path) in forms.items():
        logits = np.concatenate(said[name]).astype(np.float32)
        rows.append(
            {
                "form": name,
                "bytes of parameters": parameter_bytes,
                "bytes of file": None if path is None else path.stat().st_size,
                "ms for 1 s": round(1000 * latency(call, shape), 3),
                "macro accuracy in %": round(100 * macro_accuracy(logits, target), 2),
                "says the same in %": round(100 * float((logits.argmax(axis=1) == reference).mean()), 2),
            }
        )
    return rows


def latency(call: Callable[[Tensor], Any], shape: tuple[int, ...]) -> float:
    """Median seconds of a call with one spectrogram, on one thread."""
    threads, spectrogram = torch.get_num_threads(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    try:
        seconds = []
        for number in range(WARM_UP + CALLS):
            start = time.perf_counter()
            call(spectrogram)
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return median(seconds)


def write_float32(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a network for spectrograms (batch, 1, mels, frames) of any batch."""
    example = torch.randn((2, *shape[1:]), generator=torch.Generator().manual_seed(0))
    with atomic_path(path) as temporary:
        write_onnx(LogitsOnly(network).eval(), example, temporary, "spectrogram", ["logits"], type(network).__name__)


def write_float16(source: Path, path: Path) -> None:
    """The same file with weights and computation in float16, input and output in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), temporary)


def write_int8(network: nn.Module, shape: tuple[int, ...], path: Path, calibration: Iterator[Tensor]) -> None:
    """A network with folded batch norms, quantised by ONNX Runtime."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Clips(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray] | None:
            batch = next(calibration, None)
            return None if batch is None else {"spectrogram": batch.numpy()}

    source = path.with_suffix(".float32.onnx")
    try:
        write_float32(network, shape, source)
        with atomic_path(path) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)  # advice on steps that a network with folded batch norms does not need
            quantize_static(
                str(source),
                str(temporary),
                Clips(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logging.disable(logging.NOTSET)
        source.unlink(missing_ok=True)


def take_weights(network: nn.Module, quantized: nn.Module) -> None:
    """Copy the weights of the 8-bit form into a network with folded batch norms."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            packed: Any = quantized.get_submodule(name)
            module.weight.data = packed.weight().dequantize()
            if module.bias is not None and packed.bias() is not None:
                module.bias.data = packed.bias().detach()


def _spectrograms(run: Run[Task1Settings], front_end: nn.Module, table: Any) -> Iterator[Tensor]:
    for batch in scene_loader(run.settings, open_development(run.settings, table)):
        with torch.inference_mode():
            yield front_end(batch["waveform"])


def _runner(network: nn.Module) -> Callable[[Tensor], NDArray]:
    @torch.inference_mode()
    def call(spectrogram: Tensor) -> NDArray:
        return network(spectrogram).numpy()

    return call


def open_session(path: Path) -> Callable[[Tensor], NDArray]:
    """A call of an ONNX file, on one thread: spectrogram to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(spectrogram: Tensor) -> NDArray:
        return session.run(["logits"], {"spectrogram": spectrogram.numpy()})[0]

    return call

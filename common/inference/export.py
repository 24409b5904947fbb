"""A model as one ONNX file: front end and network, waveform in, scores out, compared with PyTorch."""

import copy
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.files import atomic_path, human_size
from common.errors import CheckFailed, UserError, import_part
from common.features.mel import MelSpectrum
from common.inference.as_model import names_a_folder
from common.inference.prepare import fold_batch_norms
from common.inference.tagging import load_model
from common.models.audio_model import AudioModel
from common.models.dynamic_mobilenet import DynamicMobileNet
from common.output import say
from common.registry.models import create_audio_model, find_released

OPSET = 18
TOLERANCE = 1e-3  # largest difference of an output, relative to its spread
SMALLEST_SPREAD = 1e-3  # random weights may let a signal die; differences of such outputs say nothing
PARTS = ("onnx", "onnxscript", "onnxruntime")


class MatrixMelSpectrum(nn.Module):
    """A MelSpectrum as a convolution with cosines and sines: ONNX runtimes disagree on its STFT."""

    def __init__(self, mel: MelSpectrum):
        super().__init__()
        n_fft = mel.n_fft
        used = mel.window.nonzero().flatten()
        first, last = int(used[0]), int(used[-1]) + 1
        time = torch.arange(first, last, dtype=torch.float64)
        angle = 2 * torch.pi / n_fft * torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * time
        basis = torch.cat([angle.cos(), angle.sin()]) * mel.window[first:last].double()
        self.basis: Tensor
        self.bank: Tensor
        self.register_buffer("basis", basis.float().unsqueeze(1))
        self.register_buffer("bank", mel.mel.bank.clone())
        self.hop_length, self.power = mel.hop_length, mel.power
        self.reflected = n_fft // 2
        self.unused = first, n_fft - last  # samples of a frame that the window leaves out

    def forward(self, waveform: Tensor, bank: Tensor | None = None) -> Tensor:
        """(batch, samples) to (batch, frames, mels)."""
        padded = F.pad(waveform.unsqueeze(1), (self.reflected, self.reflected), mode="reflect")
        padded = padded[..., self.unused[0] : padded.shape[-1] - self.unused[1]]
        real, imaginary = F.conv1d(padded, self.basis, stride=self.hop_length).mT.chunk(2, dim=-1)
        spectrum = real.square() + imaginary.square()
        return (spectrum.sqrt() if self.power == 1 else spectrum) @ self.bank


class Exported(nn.Module):
    """Waveform to the outputs that a model has, in the order of ModelOutput."""

    def __init__(self, model: AudioModel):
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor) -> tuple[Tensor, ...]:
        """(batch, samples) to logits, embedding, and for frame models frames and frame logits."""
        return tuple(value for value in self.model.run(waveform) if value is not None)


def export_onnx(
    name: str, out: Path, weights: Path | None = None, seconds: float | None = None, check: bool = True
) -> dict[str, Any]:
    """Write a model of the registry or of a run as ONNX; see `export_model`.

    An architecture without weights gets random ones.
    """
    need_parts(check)
    if weights is not None or find_released(name) is not None or names_a_folder(name):
        return export_model(load_model(name, weights).cpu(), out, seconds, check)
    say(f"{name} is an architecture without weights: the file gets random ones.")
    return export_model(create_audio_model(name), out, seconds, check)


def export_model(model: AudioModel, out: Path, seconds: float | None = None, check: bool = True) -> dict[str, Any]:
    """Write an audio model as ONNX, whole or not at all; the batch may have any size, of a DyMN it is 1.

    Args:
        seconds: length of the clips; None for the model's window.
        check: compare with PyTorch on made-up clips, together and alone where the batch is free.

    Returns:
        File, size, input, outputs, and the largest difference of an output relative to its spread.

    Raises:
        UserError: onnx, onnxscript or onnxruntime is missing; a model that ONNX cannot hold.
        CheckFailed: the file computes something else than PyTorch; it is not kept.
    """
    need_parts(check)
    if seconds is not None and seconds <= 0:
        raise UserError(f"--seconds is {seconds:g}; it must be above 0.")
    model.eval()
    samples = round((seconds or model.windows.window) * model.sample_rate)
    fixed_batch = isinstance(model.network, DynamicMobileNet)
    clips = torch.randn(1 if fixed_batch else 2, samples, generator=torch.Generator().manual_seed(0)) / 10
    with torch.inference_mode():
        kept = model.run(clips)
    expected = tuple(value for value in kept if value is not None)
    names = [field for field, value in zip(kept._fields, kept, strict=True) if value is not None]
    graph = Exported(copy.deepcopy(model)).eval()
    if not fixed_batch:  # a DyMN is exported unfolded
        fold_batch_norms(graph.model.network)
    _replace_spectra(graph)
    with atomic_path(out) as temporary:
        facts = {"sample_rate": model.sample_rate, "activation": model.activation, "labels": list(model.labels)}
        write_onnx(graph, clips, temporary, "waveform", names, model.name, free_batch=not fixed_batch, facts=facts)
        difference = _difference(temporary, clips, expected) if check else None
        if difference is not None and difference > TOLERANCE:
            raise CheckFailed(
                f"The ONNX file of {model.name} differs from PyTorch by {difference:.1e}; it was not kept."
            )
    return {
        "file": str(out),
        "size": human_size(out.stat().st_size),
        "input": f"waveform ({'1' if fixed_batch else 'batch'}, {samples}) at {model.sample_rate} Hz",
        "outputs": ", ".join(names),
        "largest difference": difference,
    }


def need_parts(check: bool = True) -> None:
    """Refuse to go on without the optional parts that exporting, and running the file, need."""
    for part in PARTS if check else PARTS[:2]:
        import_part(part, f"Exporting needs {part}, an optional part; install it with `pip install {' '.join(PARTS)}`.")


def _replace_spectra(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MelSpectrum):
            setattr(module, name, MatrixMelSpectrum(child))
        else:
            _replace_spectra(child)


def write_onnx(
    graph: nn.Module, example: Tensor, path: Path, takes: str, gives: Sequence[str], name: str, free_batch: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a network as ONNX.

    Args:
        graph: called with `example` (batch, ...), in evaluation mode.
        takes, gives: names of the input and of the outputs.
        free_batch: the file takes batches of any size; `example` then is a batch of 2.
        facts: for the metadata of the file, each as JSON.
    """
    import onnx

    shapes = ({0: torch.export.Dim("batch")},) if free_batch else None
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            torch.onnx.export(
                graph,
                (example,),
                str(path),
                input_names=[takes],
                output_names=list(gives),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"{name} has a step that ONNX cannot hold: {str(error).splitlines()[0]}") from error
    finally:
        logging.disable(disabled)
    written = onnx.load(path)
    for node in written.graph.node:
        node.ClearField("metadata_props")  # source lines: several times the size of small weights
    onnx.helper.set_model_props(written, {key: json.dumps(value) for key, value in (facts or {}).items()})
    onnx.save(written, path)


def _difference(path: Path, clips: Tensor, expected: tuple[Tensor, ...]) -> float:
    """Largest difference of any output, relative to that output's spread; the clips together and each alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    if len(clips) > 1 and session.get_inputs()[0].shape[0] == len(clips):
        raise CheckFailed(f"The exporter tied the file to batches of {len(clips)}; it was not kept.")
    largest = 0.0
    for own in [slice(0, len(clips)), *([slice(0, 1), slice(1, 2)] if len(clips) > 1 else [])]:
        given = session.run(None, {"waveform": clips[own].numpy()})
        for ours, theirs in zip(given, expected, strict=True):
            spread = max(float(theirs.std()), SMALLEST_SPREAD)
            largest = max(largest, float((torch.from_numpy(ours) - theirs[own]).abs().max()) / spread)
    return largest

"""Networks in 8-bit integers: integer weights with a scale per channel, integer activations with a scale per tensor.

PyTorch's static quantisation (FX graph mode, the defaults of fbgemm). A converted network holds packed int8 weights and
float32 biases and computes with integer kernels; quantised activations use 7 bits, so that no kernel overflows. It runs
on a CPU. torch.ao.quantization is deprecated in favour of torchao's PT2E, and still part of the torch that
requirements.txt fixes.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from common.inference.complexity import Complexity, measure
from common.inference.prepare import fold_batch_norms

BACKEND = "fbgemm"  # defaults for x86 kernels
QUIET = partial(warnings.catch_warnings, action="ignore")  # of torch.ao's deprecation


def prepare_training(network: nn.Module, input_shape: Sequence[int], keep_float: tuple[type, ...] = ()) -> Any:
    """A copy in training mode that computes as if in 8 bit; gradients pass through the rounding unchanged.

    Batch norms are folded within each step; see `freeze` for the end of such a training. Modules of the classes
    `keep_float` are computed in float, between a conversion back and forth.
    """
    from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx

    mapping = get_default_qat_qconfig_mapping(BACKEND)
    return _prepare(quantize_fx.prepare_qat_fx, _plain_copy(network).train(), mapping, input_shape, keep_float)


def freeze(prepared: nn.Module) -> None:
    """Keep the ranges of activations and the statistics of batch norms as they are from now on."""
    from torch.ao.nn.intrinsic.qat import freeze_bn_stats
    from torch.ao.quantization import disable_observer

    prepared.apply(disable_observer)
    prepared.apply(freeze_bn_stats)


def convert(prepared: Any) -> GraphModule:
    """The network in 8 bit, on the CPU; `prepared` is unchanged."""
    from torch.ao.quantization import quantize_fx

    with QUIET():
        return quantize_fx.convert_fx(copy.deepcopy(prepared).cpu().eval())


@torch.no_grad()
def quantize_trained(
    network: nn.Module, spectrograms: Iterable[Tensor], keep_float: tuple[type, ...] = ()
) -> GraphModule:
    """Quantise a trained network with ranges read from batches of training spectrograms (batch, 1, mels, frames).

    Raises:
        ValueError: if there are none.
    """
    prepared = None
    for spectrogram in spectrograms:
        prepared = prepared or _prepare_calibration(network.cpu(), spectrogram[:1].shape, keep_float)
        prepared(spectrogram.cpu())
    if prepared is None:
        raise ValueError("no spectrograms to calibrate with")
    return convert(prepared)


def blank_int8(network: nn.Module, input_shape: Sequence[int], keep_float: tuple[type, ...] = ()) -> GraphModule:
    """The 8-bit form of a network, to be filled by `load_state_dict`."""
    return convert(_prepare_calibration(network.cpu(), input_shape, keep_float))


def measure_int8(network: nn.Module, input_shape: Sequence[int], keep_float: tuple[type, ...] = ()) -> Complexity:
    """Figures of the 8-bit form of a float network, without making it.

    MACs are counted with folded batch norms: the challenge counts their biases at every output position. For bytes see
    `int8_bytes`.
    """
    return replace(measure(folded_copy(network), input_shape, "int8"), bytes=int8_bytes(network, keep_float))


def int8_bytes(network: nn.Module, keep_float: tuple[type, ...] = ()) -> int:
    """Bytes of the 8-bit form of a float network, as they are stored.

    One for each weight of a convolution or linear layer, four for each bias (one per channel, from the batch norm) and
    for each parameter of a module that is kept in float. Scales and zero points are no parameters.
    """
    folded = folded_copy(network)
    weights = sum(
        module.weight.numel()
        for module in folded.modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, keep_float)
    )
    return weights + 4 * (sum(parameter.numel() for parameter in folded.parameters()) - weights)


def folded_copy(network: nn.Module) -> nn.Module:
    """A copy for inference with batch norms folded into the convolutions, as in an 8-bit network."""
    folded = copy.deepcopy(network).eval()
    fold_batch_norms(folded)
    return folded


def _prepare_calibration(network: nn.Module, input_shape: Sequence[int], keep_float: tuple[type, ...]) -> Any:
    """A copy, batch norms folded, that records the ranges of its activations."""
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    mapping = get_default_qconfig_mapping(BACKEND)
    return _prepare(quantize_fx.prepare_fx, _plain_copy(network).eval(), mapping, input_shape, keep_float)


def _prepare(prepare: Any, network: nn.Module, mapping: Any, shape: Sequence[int], keep_float: tuple[type, ...]) -> Any:
    from torch.ao.quantization.fx.custom_config import PrepareCustomConfig

    for kind in keep_float:
        mapping.set_object_type(kind, None)
    leaves = PrepareCustomConfig().set_non_traceable_module_classes(list(keep_float))
    example = (torch.zeros(1, *tuple(shape)[1:]),)
    with QUIET():
        return prepare(network, mapping, example, prepare_custom_config=leaves)


def _plain_copy(network: nn.Module) -> nn.Module:
    """A copy without identities, which would keep an addition and its ReLU from becoming one step."""
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Identity and not isinstance(module, nn.Sequential):
                delattr(module, name)
                setattr(module, name, _pass_on)
    return plain


def _pass_on(value: Tensor) -> Tensor:
    return value

"""Models made ready for inference: batch norms folded, half precision, memory layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.models.audio_model import AudioModel
from common.models.network import channels_last, choose_device


def prepare_for_inference(model: AudioModel, dtype: torch.dtype | None = None) -> AudioModel:
    """Set a model to evaluation and make it fast, in place: batch norms folded, channels last (2x on CPU for MN).

    It cannot be trained or saved as before. `dtype` is torch.bfloat16 or torch.float16 for the network, under autocast;
    the front end stays in float32.
    """
    model.eval().requires_grad_(False)
    fold_batch_norms(model.network)
    if any(isinstance(module, nn.Conv2d) for module in model.network.modules()):
        model.memory_format = torch.channels_last
        channels_last(model.network)
    model.autocast_dtype = dtype
    return model


def quick_in_bfloat16(model: str = "") -> bool:
    """Whether the device that `choose_device` takes multiplies bfloat16 faster than float32: a GPU, or AMX on a CPU.

    DyMN, with a kernel of its own for each clip, is slower in bfloat16.
    """
    if "dymn" in model.lower():
        return False
    if choose_device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()


@contextmanager
def computing_in(precision: str, model: str = "") -> Iterator[None]:
    """Networks within compute in float32, in bf16 (autocast), or with auto in bf16 where that is quicker.

    Front ends stay in float32.
    """
    if precision == "bf16" or (precision == "auto" and quick_in_bfloat16(model)):
        with torch.autocast(choose_device().type, dtype=torch.bfloat16):
            yield
    else:
        yield


def fold_batch_norms(network: nn.Module) -> int:
    """Fold batch norms into the convolutions before them; returns how many.

    In a Sequential the two are neighbours. Elsewhere `conv1` pairs with `bn1`, and `joint_conv` with `joint_norm`. The
    batch norm becomes an identity, so names of the other layers stay. The blocks of a DyMN, which make a kernel for
    each clip, are replaced as a whole.
    """
    from common.inference.dynamic_inference import fold_dynamic_blocks

    folded = fold_dynamic_blocks(network)
    for module in network.modules():
        children = dict(module.named_children())
        pairs = [(name, name.replace("conv", norm)) for name in children for norm in ("bn", "norm")]
        for first, second in pairwise(children) if isinstance(module, nn.Sequential) else pairs:
            convolution, norm = children[first], children.get(second)
            if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                setattr(module, first, fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, nn.Identity())
                folded += 1
    return folded

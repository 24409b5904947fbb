"""Models made ready for inference: batch norms folded, half precision, memory layout."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.models.audio_model import AudioModel
from common.models.network import channels_last


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


def fold_batch_norms(network: nn.Module) -> int:
    """Fold every batch norm that directly follows a convolution in an `nn.Sequential`, or is named as its pair.

    In a Sequential the convolution and the batch norm are neighbours. Elsewhere `conv1` pairs with `bn1`, and
    `joint_conv` with `joint_norm`. The batch norm becomes an identity, so names of the other layers stay. The blocks of
    a DyMN, which make a kernel for each clip, are replaced as a whole.

    Returns:
        How many were folded.
    """
    from common.inference.dynamic_inference import fold_dynamic_blocks

    folded = fold_dynamic_blocks(network)
    for module in network.modules():
        for convolution, norm in _pairs(module):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
            folded += 1
    return folded


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    children = dict(module.named_children())
    if isinstance(module, nn.Sequential):
        names = list(children)
        candidates = list(pairwise(names))
    else:
        candidates = [
            (name, name.replace("conv", norm)) for name in children for norm in ("bn", "norm") if "conv" in name
        ]
    return [
        (first, second)
        for first, second in candidates
        if type(children[first]) is nn.Conv2d and type(children.get(second)) is nn.BatchNorm2d
    ]

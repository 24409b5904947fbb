"""Batch norms folded into the convolutions before them, for inference."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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

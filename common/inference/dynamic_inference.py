"""A DyMN block rearranged for inference: same values, about half the time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.models.dynamic_mobilenet import DynamicBlock, DynamicConvolution, DynamicReLU


class FoldedDynamicBlock(nn.Module):
    """A DynamicBlock in evaluation, for blocks of dynamic convolutions, dynamic ReLU and attention.

    Batch norms are folded into the kernels. The 1x1 convolutions are matrix products of each clip, and the attention
    over frequency is multiplied into the lines of the dynamic ReLU, which its being positive allows.
    """

    def __init__(self, block: DynamicBlock):
        super().__init__()
        generator = block.context_gen
        assert isinstance(block.depth_conv, DynamicConvolution) and isinstance(block.depth_act, DynamicReLU)
        assert isinstance(block.proj_conv, DynamicConvolution)
        self.context_gen = generator
        if isinstance(generator.joint_norm, nn.BatchNorm2d):
            generator.joint_conv = fuse_conv_bn_eval(generator.joint_conv.eval(), generator.joint_norm.eval())
            generator.joint_norm = nn.Identity()  # type: ignore[assignment]
        self.relu = block.depth_act
        self.exp_conv = block.exp_conv
        self.exp_act = block.exp_act if block.exp_conv is not None else None
        self.depth_conv, self.proj_conv = block.depth_conv, block.proj_conv
        self.residual = block.residual
        self.expanded = block.depth_conv.shape[0]
        for name in ("exp", "depth", "proj"):
            convolution = getattr(block, f"{name}_conv")
            if convolution is not None:
                # Scaling commutes with the weighted sum of kernels, so each of them is scaled on its own.
                norm = getattr(block, f"{name}_norm")
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                kernels = convolution.weight[0, 0].unflatten(1, (convolution.shape[0], -1)) * scale[:, None]
                self.register_buffer(f"{name}_kernels", kernels.flatten(1).detach())  # (K, out * in / groups * k * k)
                self.register_buffer(f"{name}_bias", (norm.bias - norm.running_mean * scale).detach())
                del convolution.weight

    def _mixed(self, name: str, convolution: nn.Module, context: Tensor) -> Tensor:
        """Kernel of each clip: (batch, out, in / groups * k * k)."""
        assert isinstance(convolution, DynamicConvolution)
        attention = (convolution.residuals(context) / convolution.temperature).softmax(dim=-1)
        return (attention @ getattr(self, f"{name}_kernels")).unflatten(1, (convolution.shape[0], -1))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency / stride, time / stride), channels last."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        context, over_frequency, over_time = self.context_gen(maps)
        hidden = maps
        if self.exp_conv is not None and self.exp_act is not None:
            hidden = self.exp_act(self._pointwise("exp", self.exp_conv, maps, context))
        hidden = self._depthwise(hidden, context, over_frequency.sigmoid(), over_time.sigmoid())
        projected = self._pointwise("proj", self.proj_conv, hidden, context)
        return projected.add_(maps) if self.residual else projected

    def _pointwise(self, name: str, convolution: nn.Module, maps: Tensor, context: Tensor) -> Tensor:
        """1x1 convolution as a matrix product of each clip."""
        pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)
        mixed = torch.bmm(pixels, self._mixed(name, convolution, context).mT).add_(self.get_buffer(f"{name}_bias"))
        return mixed.unflatten(1, maps.shape[2:]).permute(0, 3, 1, 2)

    def _depthwise(self, maps: Tensor, context: Tensor, over_frequency: Tensor, over_time: Tensor) -> Tensor:
        """Depthwise convolution, dynamic ReLU and attention, clip by clip, which keeps the maps in the cache.

        One convolution of all clips would need batch x channels groups, for which the fast layout has no kernel.
        """
        size = self.depth_conv.shape[-1]
        kernels = self._mixed("depth", self.depth_conv, context).unflatten(2, (1, size, size))
        slopes, offsets = self.relu.lines(context)
        offsets = offsets + slopes * self.get_buffer("depth_bias")[:, None]
        # The lines of the ReLU, (lines, batch, expanded, frequency, 1): attention over frequency is multiplied in.
        slopes, offsets = (
            (values.permute(2, 0, 1)[..., None, None] * over_frequency).permute(0, 1, 3, 4, 2).contiguous()
            for values in (slopes, offsets)
        )
        over_time = over_time.permute(0, 2, 3, 1).contiguous()
        result = maps.new_empty(len(maps), over_frequency.shape[2], over_time.shape[2], self.expanded)
        for clip, kernel in enumerate(kernels):
            convolved = F.conv2d(
                maps[clip : clip + 1],
                kernel.contiguous(memory_format=torch.channels_last),
                stride=self.depth_conv.stride,
                padding=self.depth_conv.padding,
                dilation=self.depth_conv.dilation,
                groups=self.expanded,
            )[0].permute(1, 2, 0)
            own = torch.mul(convolved, slopes[0, clip], out=result[clip]).add_(offsets[0, clip])
            for line in range(1, self.relu.num_lines):
                torch.maximum(own, (convolved * slopes[line, clip]).add_(offsets[line, clip]), out=own)
            own.mul_(over_time[clip])
        return result.permute(0, 3, 1, 2)


def fold_dynamic_blocks(network: nn.Module) -> int:
    """Replace every fully dynamic block inside `network`, which must be in evaluation; returns how many batch norms."""
    folded = 0
    for module in list(network.modules()):
        for name, child in module.named_children():
            if not isinstance(child, DynamicBlock) or not child.fully_dynamic:
                continue
            folded += 3 + (child.exp_conv is not None)
            setattr(module, name, FoldedDynamicBlock(child))
    return folded

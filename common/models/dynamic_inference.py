"""A DyMN block rearranged for inference: same values, about half the time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.models.dynamic_mobilenet import DynamicBlock, DynamicConvolution, DynamicReLU


def folded_kernels(convolution: DynamicConvolution, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernels (K, out * in / groups * k * k) and bias (out,) of a dynamic convolution with its batch norm.

    Scaling commutes with the weighted sum of kernels, so each of them is scaled on its own.
    """
    kernels = convolution.weight[0, 0].unflatten(1, (convolution.shape[0], -1))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = norm.bias - norm.running_mean * scale
    return (kernels * scale[:, None]).flatten(1).detach(), bias.detach()


class FoldedDynamicBlock(nn.Module):
    """What a DynamicBlock computes in evaluation, for blocks of dynamic convolutions, dynamic ReLU and attention.

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
        if isinstance(block.exp_conv, DynamicConvolution):
            self._keep("exp", *folded_kernels(block.exp_conv, block.exp_norm))
        self._keep("depth", *folded_kernels(block.depth_conv, block.depth_norm))
        self._keep("proj", *folded_kernels(block.proj_conv, block.proj_norm))
        for convolution in (block.exp_conv, block.depth_conv, block.proj_conv):
            if convolution is not None:
                del convolution.weight

    def _keep(self, name: str, kernels: Tensor, bias: Tensor) -> None:
        self.register_buffer(f"{name}_kernels", kernels)
        self.register_buffer(f"{name}_bias", bias)

    def _mixed(self, name: str, convolution: nn.Module, context: Tensor) -> Tensor:
        """Kernel of each clip: (batch, out, in / groups * k * k)."""
        assert isinstance(convolution, DynamicConvolution)
        attention = (convolution.residuals(context) / convolution.temperature).softmax(dim=-1)
        return (attention @ getattr(self, f"{name}_kernels")).unflatten(1, (convolution.shape[0], -1))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency / stride, time / stride)."""
        maps = maps.contiguous()
        batch, _, *size = maps.shape
        context, over_frequency, over_time = self.context_gen(maps)
        hidden = maps.flatten(2)
        if self.exp_conv is not None and self.exp_act is not None:
            bias = self.get_buffer("exp_bias")[:, None]
            hidden = self.exp_act(torch.baddbmm(bias, self._mixed("exp", self.exp_conv, context), hidden))
        kernel = self.depth_conv.shape[-1]
        hidden = F.conv2d(
            hidden.view(1, batch * self.expanded, *size),
            self._mixed("depth", self.depth_conv, context).view(-1, 1, kernel, kernel),
            stride=self.depth_conv.stride,
            padding=self.depth_conv.padding,
            dilation=self.depth_conv.dilation,
            groups=batch * self.expanded,
        )
        hidden = hidden.view(batch, self.expanded, *hidden.shape[2:])
        hidden = self._activate(hidden, context, over_frequency.sigmoid()).mul_(over_time.sigmoid())
        bias = self.get_buffer("proj_bias")[:, None]
        projected = torch.baddbmm(bias, self._mixed("proj", self.proj_conv, context), hidden.flatten(2))
        projected = projected.view(batch, -1, *hidden.shape[2:])
        return projected.add_(maps) if self.residual else projected

    def _activate(self, hidden: Tensor, context: Tensor, attention: Tensor) -> Tensor:
        """Dynamic ReLU with the depthwise bias and the frequency attention (batch, expanded, frequency, 1) in it."""
        slopes, offsets = self.relu.lines(context)
        offsets = offsets + slopes * self.get_buffer("depth_bias")[:, None]
        result: Tensor | None = None
        for line in range(self.relu.num_lines):
            slope, offset = (values[:, :, line, None, None] * attention for values in (slopes, offsets))
            straight = torch.addcmul(offset, hidden, slope)
            result = straight if result is None else torch.maximum(result, straight, out=result)
        assert result is not None
        return result


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

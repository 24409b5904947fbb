"""DyMN: MobileNetV3 with convolutions, activations and attention that depend on the clip.

EfficientAT, models/dymn (Schmid et al., TASLP 2024, arXiv 2310.15648).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.mobilenet import (
    BatchNorm,
    Block,
    InvertedResidual,
    block_table,
    convolution,
    initialise,
    make_head,
    square_strides,
)
from common.models.network import ModelOutput, make_divisible


class DynamicConvolution(nn.Module):
    """Convolution without bias; the kernel of each clip is a softmax-weighted sum of `num_kernels` kernels.

    `temperature` flattens the softmax. It is not in the state dict: the released AudioSet weights need 1, the ImageNet
    weights 30, and a wrong one raises no error.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_size: int,
        kernel: int = 1,
        stride: tuple[int, int] = (1, 1),
        dilation: int = 1,
        groups: int = 1,
        num_kernels: int = 4,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.residuals = nn.Sequential(nn.Linear(context_size, num_kernels))
        self.shape = (out_channels, in_channels // groups, kernel, kernel)
        kernels = torch.empty(num_kernels, *self.shape)
        for single in kernels:
            nn.init.kaiming_normal_(single, mode="fan_out")
        self.weight = nn.Parameter(kernels.view(1, 1, num_kernels, -1))
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = (kernel - 1) // 2 * dilation
        self.temperature = temperature

    def kernels(self, context: Tensor) -> Tensor:
        """Contexts (batch, H) to one kernel for each clip (batch, out, in / groups, k, k)."""
        attention = (self.residuals(context) / self.temperature).softmax(dim=-1)
        return (attention @ self.weight[0, 0]).unflatten(1, self.shape)

    def forward(self, maps: Tensor, context: Tensor) -> Tensor:
        """(batch, in, frequency, time) and contexts (batch, H) to (batch, out, ...).

        All clips go through one convolution with batch x groups groups.
        """
        batch = maps.shape[0]
        convolved = F.conv2d(
            maps.flatten(0, 1).unsqueeze(0),
            self.kernels(context).flatten(0, 1),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups * batch,
        )
        return convolved.squeeze(0).unflatten(0, (batch, self.shape[0]))


class DynamicReLU(nn.Module):
    """Dynamic ReLU-B: the largest of M lines for each clip and channel, its slopes and offsets from the context."""

    lambdas: Tensor
    init_v: Tensor

    def __init__(self, channels: int, context_size: int, num_lines: int = 2):
        super().__init__()
        self.coef_net = nn.Sequential(nn.Linear(context_size, 2 * num_lines * channels))
        self.register_buffer("lambdas", torch.tensor([1.0] * num_lines + [0.5] * num_lines))
        self.register_buffer("init_v", torch.tensor([1.0] + [0.0] * (2 * num_lines - 1)))
        self.channels = channels
        self.num_lines = num_lines

    def lines(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts (batch, H) to slopes and offsets, both (batch, channels, lines)."""
        theta = 2 * self.coef_net(context).sigmoid() - 1
        coefficients = theta.unflatten(1, (self.channels, -1)) * self.lambdas + self.init_v
        return coefficients[..., : self.num_lines], coefficients[..., self.num_lines :]

    def forward(self, maps: Tensor, context: Tensor) -> Tensor:
        """(batch, channels, frequency, time) and contexts (batch, H) to the same shape as the maps."""
        slopes, offsets = (values[..., None, None] for values in self.lines(context))
        result = torch.addcmul(offsets[:, :, 0], maps, slopes[:, :, 0])
        for line in range(1, self.num_lines):
            result = torch.maximum(result, torch.addcmul(offsets[:, :, line], maps, slopes[:, :, line]))
        return result


class ContextGenerator(nn.Module):
    """A block's context and its frequency and time attention, from the two mean profiles of the block's input."""

    def __init__(self, in_channels: int, context_size: int, expanded: int, stride: tuple[int, int]):
        super().__init__()
        self.joint_conv = nn.Conv2d(in_channels, context_size, 1, bias=False)
        self.joint_norm = BatchNorm(context_size)
        self.conv_f = nn.Conv2d(context_size, expanded, 1)
        self.conv_t = nn.Conv2d(context_size, expanded, 1)
        self.stride = stride

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, in, frequency, time) to the context (batch, H) and attention of the block's output size.

        The attention comes as (batch, expanded, frequency, 1) and (batch, expanded, 1, time), before the sigmoid.
        """
        profiles = torch.cat([maps.mean(dim=3, keepdim=True), maps.mean(dim=2, keepdim=True).mT], dim=2)
        joint = F.hardswish(self.joint_norm(self.joint_conv(profiles)))
        over_frequency, over_time = joint.split([maps.shape[2], maps.shape[3]], dim=2)
        over_time = over_time.mT
        if self.stride != (1, 1):
            over_frequency = F.avg_pool2d(over_frequency, (3, 1), (self.stride[0], 1), (1, 0))
            over_time = F.avg_pool2d(over_time, (1, 3), (1, self.stride[1]), (0, 1))
        return joint.mean(dim=(2, 3)), self.conv_f(over_frequency), self.conv_t(over_time)


class Static(nn.Module):
    """A layer that ignores the context, in the place of a dynamic one."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, maps: Tensor, context: Tensor) -> Tensor:
        """Output of the layer."""
        return self.module(maps)


class DynamicBlock(nn.Module):
    """Inverted residual block of dynamic convolutions; dynamic ReLU and coordinate attention follow the depthwise."""

    def __init__(
        self,
        block: Block,
        context_size: int,
        dyrelu_k: int = 2,
        dyconv_k: int = 4,
        temperature: float = 1.0,
        no_dyrelu: bool = False,
        no_dyconv: bool = False,
        no_ca: bool = False,
    ):
        super().__init__()
        dynamic = partial(DynamicConvolution, context_size=context_size, num_kernels=dyconv_k, temperature=temperature)
        make_convolution = static_convolution if no_dyconv else dynamic
        self.exp_conv: nn.Module | None = None
        if block.expanded != block.in_channels:
            self.exp_conv = make_convolution(block.in_channels, block.expanded)
            self.exp_norm = BatchNorm(block.expanded)
            self.exp_act = block.activation()
        self.depth_conv = make_convolution(
            block.expanded,
            block.expanded,
            kernel=block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            groups=block.expanded,
        )
        self.depth_norm = BatchNorm(block.expanded)
        self.depth_act = (
            Static(block.activation()) if no_dyrelu else DynamicReLU(block.expanded, context_size, dyrelu_k)
        )
        self.proj_conv = make_convolution(block.expanded, block.out_channels)
        self.proj_norm = BatchNorm(block.out_channels)
        self.context_gen = ContextGenerator(block.in_channels, context_size, block.expanded, block.stride)
        self.coordinate_attention = not no_ca
        self.fully_dynamic = not (no_ca or no_dyconv or no_dyrelu)
        self.residual = block.residual

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency / stride, time / stride)."""
        context, over_frequency, over_time = self.context_gen(maps)
        hidden = maps
        if self.exp_conv is not None:
            hidden = self.exp_act(self.exp_norm(self.exp_conv(hidden, context)))
        hidden = self.depth_act(self.depth_norm(self.depth_conv(hidden, context)), context)
        if self.coordinate_attention:
            hidden = hidden * over_frequency.sigmoid() * over_time.sigmoid()
        hidden = self.proj_norm(self.proj_conv(hidden, context))
        return maps + hidden if self.residual else hidden


def static_convolution(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, **shape: Any) -> Static:
    """The ordinary convolution of the shape of a DynamicConvolution."""
    padding = (kernel - 1) // 2 * dilation
    return Static(nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False, **shape))


def kernel_temperature(
    epoch: int, t_max: float = 30.0, t0_slope: float = 1.0, t1_slope: float = 0.02, t_min: float = 1.0
) -> float:
    """Temperature of the kernel softmax in `epoch` (from 0): steep from `t_max`, then a slow tail down to `t_min`.

    Equation 5 of the paper. With the defaults 30, 29, ... 2 in epoch 28, 1 from epoch 29 on.

    >>> [kernel_temperature(epoch) for epoch in (0, 1, 28, 29)]
    [30.0, 29.0, 2.0, 1.0]
    """
    steep = t_max - t0_slope * epoch
    tail = 1 + t1_slope * (t_max - 1) / t0_slope - t1_slope * epoch
    return max(steep, tail, t_min)


class DynamicMobileNet(nn.Module):
    """DyMN on log-mel spectrograms.

    Args:
        width_mult: scales every channel count and the context sizes.
        strides: of blocks 2, 4, 7 and 13.
        use_dy_blocks: "all", or "replace_se" for dynamic blocks only where MobileNetV3 has squeeze and excitation.
        context_ratio: expanded channels divided by this give a block's context size, kept between
            `min_context_size` and `max_context_size` times `width_mult`.
        dyrelu_k, dyconv_k: lines of the dynamic ReLU, kernels of a dynamic convolution.
        T_max, T0_slope, T1_slope, T_min: the temperature's schedule. 1 for `T_max` is right for the released AudioSet
            weights and for fine-tuning them; start at 30 to train from ImageNet weights or from scratch.
        temperature: at the start; None for `T_max`.
        no_dyrelu, no_dyconv, no_ca: leave out dynamic ReLU, dynamic convolutions, coordinate attention.
        head_type: mlp or fully_convolutional.
        reduced_tail: halve the channels of the last three blocks.
        dilated: dilate the last three blocks by 2 instead of the stride of the first of them.
        dropout: inside the mlp head.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        num_classes: int = 527,
        strides: Sequence[int] = (2, 2, 2, 2),
        use_dy_blocks: str = "all",
        context_ratio: int = 4,
        min_context_size: int = 32,
        max_context_size: int = 128,
        dyrelu_k: int = 2,
        dyconv_k: int = 4,
        T_max: float = 1.0,
        T0_slope: float = 1.0,
        T1_slope: float = 0.02,
        T_min: float = 1.0,
        temperature: float | None = None,
        no_dyrelu: bool = False,
        no_dyconv: bool = False,
        no_ca: bool = False,
        head_type: str = "mlp",
        reduced_tail: bool = False,
        dilated: bool = False,
        dropout: float = 0.2,
    ):
        super().__init__()
        if use_dy_blocks not in ("all", "replace_se"):
            raise ValueError(f"use_dy_blocks is all or replace_se, not {use_dy_blocks}")
        self.temperature_in = partial(
            kernel_temperature, t_max=T_max, t0_slope=T0_slope, t1_slope=T1_slope, t_min=T_min
        )
        smallest, largest = (make_divisible(size * width_mult) for size in (min_context_size, max_context_size))
        parts: dict[str, Any] = {"dyrelu_k": dyrelu_k, "dyconv_k": dyconv_k, "no_dyrelu": no_dyrelu, "no_ca": no_ca}
        parts |= {"no_dyconv": no_dyconv, "temperature": T_max if temperature is None else temperature}
        blocks = block_table(width_mult, square_strides(strides), reduced_tail, dilated)
        self.layers = nn.ModuleList()
        for block in blocks:
            if use_dy_blocks == "replace_se" and not block.squeeze:
                self.layers.append(InvertedResidual(block))
            else:
                context_size = min(max(make_divisible(block.expanded // context_ratio), smallest), largest)
                self.layers.append(DynamicBlock(block, context_size, **parts))
        last = blocks[-1].out_channels
        self.in_c = convolution(1, blocks[0].in_channels, 3, nn.Hardswish(inplace=True), stride=2)
        self.out_c = convolution(last, 6 * last, activation=nn.Hardswish(inplace=True))
        hidden = make_divisible((640 if reduced_tail else 1280) * width_mult)
        self.classifier = make_head(head_type, 6 * last, hidden, num_classes, dropout)
        self.embedding_size = 6 * last
        initialise(self)

    def start_epoch(self, epoch: int) -> None:
        """Set the temperature of every kernel softmax that `epoch` (from 0) of a training runs with."""
        for module in self.modules():
            if isinstance(module, DynamicConvolution):
                module.temperature = self.temperature_in(epoch)

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes) and the pooled last convolution (batch, 6 c)."""
        maps = self.in_c(spectrogram)
        for layer in self.layers:
            maps = layer(maps)
        maps = self.out_c(maps)
        return ModelOutput(logits=self.classifier(maps), embedding=maps.mean(dim=(2, 3)))

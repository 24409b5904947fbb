"""MN: MobileNetV3 for audio tagging, widths 0.1 to 4.0.

EfficientAT, models/mn (Schmid et al., ICASSP 2023, arXiv 2211.04772). The blocks here also serve frame_mobilenet.py and
the plain blocks of dynamic_mobilenet.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.models.network import ModelOutput, make_divisible

BatchNorm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)

# kernel, expanded, out, squeeze-excitation, Hardswish instead of ReLU; channels for width 1. Block 1 reads 16 channels.
TABLE = (
    (3, 16, 16, False, False),
    (3, 64, 24, False, False),
    (3, 72, 24, False, False),
    (5, 72, 40, True, False),
    (5, 120, 40, True, False),
    (5, 120, 40, True, False),
    (3, 240, 80, False, True),
    (3, 200, 80, False, True),
    (3, 184, 80, False, True),
    (3, 184, 80, False, True),
    (3, 480, 112, True, True),
    (3, 672, 112, True, True),
    (5, 672, 160, True, True),
    (5, 960, 160, True, True),
    (5, 960, 160, True, True),
)
STRIDED = (1, 3, 6, 12)  # the rows of TABLE that `strides` is for
TAIL = 12  # from this row on `reduced_tail` halves outputs and `dilated` dilates depthwise convolutions


@dataclass(frozen=True)
class Block:
    """One inverted residual block; strides are (frequency, time)."""

    kernel: int
    in_channels: int
    expanded: int
    out_channels: int
    squeeze: bool
    hardswish: bool
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side of the depthwise convolution."""
        return (self.kernel - 1) // 2 * self.dilation

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == (1, 1) and self.in_channels == self.out_channels

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(frequency, time) after the block."""
        reach = 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        return (size[0] + reach) // self.stride[0] + 1, (size[1] + reach) // self.stride[1] + 1

    def activation(self) -> nn.Module:
        """A new activation of the block's kind."""
        return nn.Hardswish(inplace=True) if self.hardswish else nn.ReLU(inplace=True)


def block_table(
    width_mult: float, strides: Sequence[tuple[int, int]], reduced_tail: bool = False, dilated: bool = False
) -> list[Block]:
    """The 15 blocks of MobileNetV3-large at a width; `strides` holds (frequency, time) for each block.

    A dilated block runs with stride 1.
    """
    blocks = []
    channels = make_divisible(16 * width_mult)
    for index, (kernel, expanded, out, squeeze, hardswish) in enumerate(TABLE):
        in_tail = index >= TAIL
        if reduced_tail and in_tail:
            out //= 2
            expanded = expanded if index == TAIL else expanded // 2
        stretch = dilated and in_tail
        blocks.append(
            Block(
                kernel=kernel,
                in_channels=channels,
                expanded=make_divisible(expanded * width_mult),
                out_channels=make_divisible(out * width_mult),
                squeeze=squeeze,
                hardswish=hardswish,
                stride=(1, 1) if stretch else strides[index],
                dilation=2 if stretch else 1,
            )
        )
        channels = blocks[-1].out_channels
    return blocks


def square_strides(strides: Sequence[int]) -> list[tuple[int, int]]:
    """The four `strides` of MN and DyMN, the same in frequency and time, to one pair for each of the 15 blocks."""
    pairs = [(1, 1)] * len(TABLE)
    for row, stride in zip(STRIDED, strides, strict=True):
        pairs[row] = (stride, stride)
    return pairs


def convolution(
    in_channels: int, out_channels: int, kernel: int = 1, activation: nn.Module | None = None, **options: Any
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    options.setdefault("padding", (kernel - 1) // 2)
    layers = [nn.Conv2d(in_channels, out_channels, kernel, bias=False, **options), BatchNorm(out_channels)]
    return nn.Sequential(*layers, *([activation] if activation else []))


class SqueezeExcitation(nn.Module):
    """Scales one dimension (1 channels, 2 frequency, 3 time) by a gate computed from the mean over the two others."""

    def __init__(self, size: int, reduction: int, dim: int):
        super().__init__()
        squeezed = make_divisible(size // reduction)
        self.fc1 = nn.Linear(size, squeezed)
        self.fc2 = nn.Linear(squeezed, size)
        self.others = [other for other in (1, 2, 3) if other != dim]

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, frequency, time), scaled."""
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(maps.mean(dim=self.others)))))
        for other in self.others:
            gate = gate.unsqueeze(other)
        return maps * gate


class ConcurrentSqueezeExcitation(nn.Module):
    """Squeeze and excitation over several dimensions side by side; the scaled maps are aggregated."""

    AGGREGATE = {
        "max": lambda maps: maps.amax(dim=0),
        "min": lambda maps: maps.amin(dim=0),
        "avg": lambda maps: maps.mean(dim=0),
        "add": lambda maps: maps.sum(dim=0),
    }

    def __init__(self, sizes: tuple[int, int, int], dims: str, aggregate: str, reduction: int):
        super().__init__()
        if aggregate not in self.AGGREGATE:
            raise ValueError(f"se_agg is one of {', '.join(self.AGGREGATE)}, not {aggregate}")
        order = [" cft".index(letter) for letter in dims]
        self.conc_se_layers = nn.ModuleList(SqueezeExcitation(sizes[dim - 1], reduction, dim) for dim in order)
        self.aggregate = aggregate

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, frequency, time), scaled."""
        if len(self.conc_se_layers) == 1:
            return self.conc_se_layers[0](maps)
        return self.AGGREGATE[self.aggregate](torch.stack([layer(maps) for layer in self.conc_se_layers]))


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, optional squeeze and excitation, project; plus the input where it fits.

    The expansion is left out where it would not expand, which shifts the names of the layers behind it.
    """

    def __init__(self, block: Block, squeeze: nn.Module | None = None):
        super().__init__()
        layers: list[nn.Module] = []
        if block.expanded != block.in_channels:
            layers.append(convolution(block.in_channels, block.expanded, activation=block.activation()))
        layers.append(
            convolution(
                block.expanded,
                block.expanded,
                block.kernel,
                block.activation(),
                stride=block.stride,
                padding=block.padding,
                dilation=block.dilation,
                groups=block.expanded,
            )
        )
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(convolution(block.expanded, block.out_channels))
        self.block = nn.Sequential(*layers)
        self.residual = block.residual

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency / stride, time / stride)."""
        return maps + self.block(maps) if self.residual else self.block(maps)


class MultiHeadAttentionPooling(nn.Module):
    """Clip logits as the attention-weighted mean over time, summed over weighted heads (PSLA, arXiv 2102.01243)."""

    def __init__(self, num_features: int, num_classes: int, num_heads: int = 4):
        super().__init__()
        self.subspace_proj = nn.Linear(num_features, num_classes * 2 * num_heads)
        self.head_weight = nn.Parameter(torch.full((1, num_heads, 1), 1 / num_heads))
        self.num_heads = num_heads

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, features, frequency, time) to logits (batch, classes)."""
        projected = self.subspace_proj(maps.mean(dim=2).mT).unflatten(2, (2, self.num_heads, -1))
        attention = projected[:, :, 0].sigmoid().clamp(1e-7, 1 - 1e-7)
        attention = attention / attention.sum(dim=1, keepdim=True)
        return ((attention * projected[:, :, 1]).sum(dim=1) * self.head_weight).sum(dim=1)


def make_features(
    blocks: Sequence[Block], size: tuple[int, int], se_dims: str = "c", se_agg: str = "max", se_r: int = 4
) -> nn.Sequential:
    """Stem, blocks and last convolution for spectrograms of `size` (mels, frames); `se_*` as for `MobileNet`."""
    layers: list[nn.Module] = [convolution(1, blocks[0].in_channels, 3, nn.Hardswish(inplace=True), stride=2)]
    size = (size[0] + 1) // 2, (size[1] + 1) // 2
    for block in blocks:
        size = block.output_size(size)
        squeeze = None
        if block.squeeze and se_dims != "none":
            squeeze = ConcurrentSqueezeExcitation((block.expanded, *size), se_dims, se_agg, se_r)
        layers.append(InvertedResidual(block, squeeze))
    last = blocks[-1].out_channels
    return nn.Sequential(*layers, convolution(last, 6 * last, activation=nn.Hardswish(inplace=True)))


def make_head(head_type: str, num_features: int, hidden: int, num_classes: int, dropout: float = 0.2) -> nn.Module:
    """Classifier on the maps of the last convolution: (batch, features, frequency, time) to logits (batch, classes)."""
    if head_type == "mlp":
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(num_features, hidden),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
    if head_type == "fully_convolutional":
        return nn.Sequential(
            nn.Conv2d(num_features, num_classes, 1, bias=False),
            nn.BatchNorm2d(num_classes),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    if head_type == "multihead_attention_pooling":
        return MultiHeadAttentionPooling(num_features, num_classes)
    raise ValueError(f"head_type is mlp, fully_convolutional or multihead_attention_pooling, not {head_type}")


def initialise(network: nn.Module) -> None:
    """Convolutions Kaiming normal by fan out, linear layers N(0, 0.01), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class MobileNet(nn.Module):
    """MobileNetV3-large on log-mel spectrograms.

    Args:
        width_mult: scales every channel count.
        num_classes: of the classifier.
        reduced_tail: halve the channels of the last three blocks.
        dilated: dilate the last three blocks by 2 instead of the stride of the first of them.
        strides: of blocks 2, 4, 7 and 13; smaller ones shrink the receptive field (2222: 595 frames, 2211: 291).
        head_type: mlp, fully_convolutional or multihead_attention_pooling.
        se_dims: letters of the dimensions that are squeezed and excited, of "cft"; "none" for no such layer.
            With t the network is tied to clips of `input_dim_t` frames.
        se_agg: max, min, avg or add; how the outputs of several `se_dims` become one.
        se_r: reduction inside squeeze and excitation.
        input_dim_f: mel bands of the input; matters for se_dims with f.
        input_dim_t: frames of the input; matters for se_dims with t.
        dropout: inside the mlp head.
    """

    def __init__(
        self,
        width_mult: float = 1.0,
        num_classes: int = 527,
        reduced_tail: bool = False,
        dilated: bool = False,
        strides: Sequence[int] = (2, 2, 2, 2),
        head_type: str = "mlp",
        se_dims: str = "c",
        se_agg: str = "max",
        se_r: int = 4,
        input_dim_f: int = 128,
        input_dim_t: int = 1000,
        dropout: float = 0.2,
    ):
        super().__init__()
        blocks = block_table(width_mult, square_strides(strides), reduced_tail, dilated)
        self.features = make_features(blocks, (input_dim_f, input_dim_t), se_dims, se_agg, se_r)
        last = blocks[-1].out_channels
        hidden = make_divisible((640 if reduced_tail else 1280) * width_mult)
        self.classifier = make_head(head_type, 6 * last, hidden, num_classes, dropout)
        self.embedding_size = 6 * last
        initialise(self)

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes) and the pooled last convolution (batch, 6 c)."""
        maps = self.features(spectrogram)
        return ModelOutput(logits=self.classifier(maps), embedding=maps.mean(dim=(2, 3)))

"""CP-Mobile: inverted residual blocks for scene classification at low complexity.

Two networks: the baseline of DCASE Task 1 in 2024 and 2025 (CPJKU/dcase2024_task1_baseline, models/baseline.py) and the
winner of 2023 (fschmid56/cpjku_dcase23, models/cp_mobile_clean.py), which has global response normalisation after each
block.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from common.models.network import ModelOutput, make_divisible

Stride = int | tuple[int, int]  # (frequency, time)


class GlobalResponseNorm(nn.Module):
    """Scales channels by their energy relative to the others; two learned scalars, an identity at the start.

    Woo et al., ConvNeXt V2 (arXiv 2301.00808), with one gamma and beta for all channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, frequency, time) to the same shape."""
        energy = maps.norm(dim=(2, 3), keepdim=True)
        relative = energy / (energy.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma * (maps * relative) + self.beta + maps


class Block(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection; a shortcut where the number of channels stays; ReLU behind all."""

    def __init__(self, in_channels: int, expanded: int, out_channels: int, stride: Stride, response_norm: bool):
        super().__init__()
        self.block = nn.Sequential(
            convolution(in_channels, expanded),
            convolution(expanded, expanded, kernel=3, stride=stride, groups=expanded),
            convolution(expanded, out_channels, activation=False),
        )
        self.shortcut: nn.Module | None = None
        if in_channels == out_channels:
            strided = stride not in (1, (1, 1))
            self.shortcut = nn.AvgPool2d(3, stride, padding=1) if strided else nn.Identity()
        self.after_block_norm = GlobalResponseNorm() if response_norm else nn.Identity()
        self.after_block_activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency / stride, time / stride)."""
        transformed = self.block(maps)
        if self.shortcut is not None:
            transformed = transformed + self.shortcut(maps)
        return self.after_block_activation(self.after_block_norm(transformed))


class CPMobile(nn.Module):
    """CP-Mobile on log-mel spectrograms.

    Args:
        num_classes: of the classifier.
        in_channels: of the spectrogram.
        base_channels: width of the first stage, rounded to a multiple of 8.
        channels_multiplier: each stage is this much wider than the one before, beginning with the second.
        expansion_rate: of the channels inside a block.
        n_blocks: blocks of each stage.
        strides: (frequency, time) of the depthwise convolution of block "b1", "b2", ...; (1, 1) where not named.
        response_norm: global response normalisation after each block, as in 2023.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        base_channels: int = 32,
        channels_multiplier: float = 2.3,
        expansion_rate: float = 3.0,
        n_blocks: Sequence[int] = (3, 2, 1),
        strides: Mapping[str, Sequence[int]] | None = None,
        response_norm: bool = True,
    ):
        super().__init__()
        strides = {"b2": (2, 2), "b4": (2, 1)} if strides is None else strides
        base = make_divisible(base_channels)
        widths = [base, *[make_divisible(base * channels_multiplier**stage) for stage in range(len(n_blocks))]]
        expanded = [make_divisible(width * expansion_rate) for width in widths]
        self.in_c = nn.Sequential(
            convolution(in_channels, base // 4, kernel=3, stride=2), convolution(base // 4, base, kernel=3, stride=2)
        )
        self.stages = nn.Sequential()
        number = 0
        for stage, blocks in enumerate(n_blocks):
            layers = nn.Sequential()
            for index in range(blocks):
                number += 1
                frequency, time = strides.get(f"b{number}", (1, 1))
                before = stage if index == 0 else stage + 1
                sizes = widths[before], expanded[before], widths[stage + 1]
                block = Block(*sizes, (frequency, time), response_norm)
                layers.add_module(f"b{number}", block)
            self.stages.add_module(f"s{stage + 1}", layers)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(widths[-1], num_classes, 1, bias=False), nn.BatchNorm2d(num_classes), nn.AdaptiveAvgPool2d(1)
        )
        self.embedding_size = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes) and the mean of the last stage (batch, channels)."""
        maps = self.stages(self.in_c(spectrogram))
        return ModelOutput(logits=self.feed_forward(maps).flatten(1), embedding=maps.mean(dim=(2, 3)))


def convolution(
    in_channels: int, out_channels: int, kernel: int = 1, stride: Stride = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU, which overwrites its input: fewer passes over memory."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if activation else []))

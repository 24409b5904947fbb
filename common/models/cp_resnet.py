"""CP-ResNet: a residual network with a small receptive field, the teacher of many scene classification systems.

theMoro/DIRAugmentation, models/cp_resnet.py (after Koutini et al., arXiv 1907.01803); the small teacher of 2023 from
fschmid56/cpjku_dcase23, models/cp_resnet.py.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from common.models.network import ModelOutput


class BasicBlock(nn.Module):
    """Two convolutions with batch norms, plus the input (through a 1x1 convolution where widths differ), ReLU."""

    def __init__(self, in_channels: int, out_channels: int, k1: int, k2: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, k1, padding=k1 // 3, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, k2, padding=k2 // 3, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, in, frequency, time) to (batch, out, frequency, time)."""
        transformed = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(maps)))))
        return self.activation(transformed + self.shortcut(maps))


class CPResNet(nn.Module):
    """CP-ResNet on log-mel spectrograms.

    Args:
        rho: receptive field: behind the first block, the first `rho` convolutions are 3x3, the others 1x1.
        base_channels, channels_multiplier: width of the first stage; each is this much wider than the one before.
        n_channels: widths of the three stages, instead of the two above.
        n_blocks: blocks of the three stages, of which `cut_stage2` and `cut_stage3` are left out.
        maxpool_stage1, maxpool_stage2, maxpool_stage3: blocks of the stage with a max pooling behind; 0: before it.
        maxpool_kernel: (frequency, time) of the poolings and their strides.
        maxpool_kernel0: kernel of a pooling before a stage; None takes `maxpool_kernel`.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        rho: int = 7,
        base_channels: int = 128,
        channels_multiplier: int = 2,
        n_channels: Sequence[int] | None = None,
        n_blocks: Sequence[int] = (4, 4, 4),
        cut_stage2: int = 0,
        cut_stage3: int = 0,
        maxpool_stage1: Sequence[int] = (1,),
        maxpool_stage2: Sequence[int] = (),
        maxpool_stage3: Sequence[int] = (),
        maxpool_kernel: Sequence[int] = (2, 1),
        maxpool_kernel0: Sequence[int] | None = None,
        groups: Sequence[int] = (1, 1, 1),
    ):
        super().__init__()
        widths = list(n_channels or [base_channels * channels_multiplier**stage for stage in range(3)])
        counts = [blocks - cut for blocks, cut in zip(n_blocks, (0, cut_stage2, cut_stage3), strict=True)]
        kernels = iter([3, 1] + [3 if index < rho else 1 for index in range(2 * sum(counts) - 2)])
        self.in_c = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 5, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        channels = widths[0]
        pools = (maxpool_stage1, maxpool_stage2, maxpool_stage3)
        for stage, count in enumerate(counts):
            layers = nn.Sequential()
            if 0 in pools[stage] and count:
                layers.add_module("maxpool0", nn.MaxPool2d(tuple(maxpool_kernel0 or maxpool_kernel)))
            for index in range(count):
                block = BasicBlock(channels, widths[stage], next(kernels), next(kernels), groups[stage])
                layers.add_module(f"block{index + 1}", block)
                channels = widths[stage]
                for number in range(list(pools[stage]).count(index + 1)):
                    layers.add_module(f"maxpool{index + 1}_{number}", nn.MaxPool2d(tuple(maxpool_kernel)))
            self.add_module(f"stage{stage + 1}", layers)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes), nn.AdaptiveAvgPool2d(1)
        )
        self.embedding_size = channels
        # Like Fixup: each block and the classifier start with zeros, first convolutions are scaled down.
        nn.init.kaiming_normal_(self.get_parameter("in_c.0.weight"), nonlinearity="relu")
        blocks = [module for module in self.modules() if isinstance(module, BasicBlock)]
        for block in blocks:
            nn.init.kaiming_normal_(block.conv1.weight, mode="fan_out")
            block.conv1.weight.data *= len(blocks) ** -0.5
            nn.init.zeros_(block.conv2.weight)
            if len(block.shortcut):
                nn.init.kaiming_normal_(block.shortcut.get_parameter("conv.weight"), mode="fan_out")
        nn.init.zeros_(self.get_parameter("feed_forward.0.weight"))

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes) and the mean of the last stage (batch, channels)."""
        maps = self.get_submodule("stage1")(self.in_c(spectrogram))
        maps = self.get_submodule("stage3")(self.get_submodule("stage2")(maps))
        return ModelOutput(logits=self.feed_forward(maps).flatten(1), embedding=maps.mean(dim=(2, 3)))

"""Frame-level MobileNetV3: one frame of 40 ms from four spectrogram frames, and frequency folded to one band.

PretrainedSED, models/frame_mn (AudioSet strong), with widths of its successor EfficientSED.
"""

from functools import partial

from torch import Tensor, nn

from common.models.frame_prediction import SequenceModel, plain_key, wrap
from common.models.mobilenet import (
    ConcurrentSqueezeExcitation,
    InvertedResidual,
    block_table,
    convolution,
    initialise,
)

FREQUENCY_STRIDES = (1, 2, 2, 1, 1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 2)
TIME_STRIDES = (1, 2, *([1] * 13))


class FrameMobileNet(SequenceModel):
    """The MobileNetV3-large blocks with strides that keep time; no head. Takes clips of any length.

    Args:
        width_mult: scales every channel count.
        se_r: reduction inside squeeze and excitation.
    """

    def __init__(self, width_mult: float = 1.0, se_r: int = 4):
        super().__init__()
        blocks = block_table(width_mult, list(zip(FREQUENCY_STRIDES, TIME_STRIDES, strict=True)))
        layers: list[nn.Module] = [convolution(1, blocks[0].in_channels, 3, nn.Hardswish(inplace=True), stride=2)]
        size = 64, 500
        for block in blocks:
            size = block.output_size(size)
            squeeze = ConcurrentSqueezeExcitation((block.expanded, *size), "c", "max", se_r) if block.squeeze else None
            layers.append(InvertedResidual(block, squeeze))
        last = blocks[-1].out_channels
        layers.append(convolution(last, 6 * last, activation=nn.Hardswish(inplace=True)))
        self.features = nn.Sequential(*layers)
        self.dim = 6 * last
        initialise(self)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 128, frames) to (batch, frames / 4 rounded up, 6 c)."""
        return self.features(spectrogram).squeeze(2).mT

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the 17 stages for layer-wise decay, last stage first."""
        return [list(stage.parameters()) for stage in reversed(self.features)]


frame_mobilenet = partial(wrap, FrameMobileNet)
"""A FrameMobileNet with its heads; `options` of `FramePrediction` or `FrameMobileNet`."""


def released_key(key: str) -> str:
    """Our name for a key of a released file."""
    return plain_key(key, "frame_mn", "fmn")

"""Frame-level MobileNetV3: one frame of 40 ms from four spectrogram frames, and frequency folded to one band.

PretrainedSED, models/frame_mn (AudioSet strong), with widths of its successor EfficientSED.
"""

from functools import partial

from torch import Tensor, nn

from common.models.frame_prediction import SequenceModel, plain_key, wrap
from common.models.mobilenet import block_table, initialise, make_features

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
        self.features = make_features(blocks, (128, 1000), se_r=se_r)
        self.dim = 6 * blocks[-1].out_channels
        initialise(self)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 128, frames) to (batch, frames / 4 rounded up, 6 c)."""
        return self.features(spectrogram).squeeze(2).mT

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the 17 stages for layer-wise decay, last stage first."""
        return [list(stage.parameters()) for stage in reversed(self.features)]


frame_mobilenet = partial(wrap, FrameMobileNet)
"""A FrameMobileNet with its heads; `options` of `FramePrediction` or `FrameMobileNet`."""


released_key = partial(plain_key, ["frame_mn", "fmn"])
"""Our name for a key of a released file."""

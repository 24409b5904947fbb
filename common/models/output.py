"""Output of every network and audio model."""

from typing import NamedTuple

from torch import Tensor


class ModelOutput(NamedTuple):
    """Output of every network and audio model; all scores are before sigmoid or softmax.

    logits: (batch, classes), or None for a network without clip classifier.
    embedding: (batch, dim), one vector per clip.
    frames: (batch, time, dim), or None for a clip model.
    frame_logits: (batch, time, classes), or None.
    """

    logits: Tensor | None
    embedding: Tensor
    frames: Tensor | None = None
    frame_logits: Tensor | None = None

"""fPaSST: a Patchout transformer with one token for 40 ms, for sound event detection.

Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection" (ICASSP 2025),
PretrainedSED, models/frame_passt.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.encoder import Encoder, PatchProjection, initialise_like_vit
from common.models.frame_prediction import SequenceModel, plain_key, wrap


class FramePasst(SequenceModel):
    """The fPaSST encoder: a convolutional stem, two extra tokens, 12 blocks."""

    step_frames = 4
    max_steps: int

    def __init__(
        self,
        *,
        num_mels: int = 128,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        max_steps: int = 250,
        **encoder: Any,
    ):
        super().__init__()
        self.dim = dim
        self.max_steps = max_steps
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.empty(1, 2, dim))
        self.freq_new_pos_embed = nn.Parameter(torch.empty(1, dim, 1, 1))
        self.time_new_pos_embed = nn.Parameter(torch.empty(1, dim, 1, max_steps))
        self.conv_in_1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv_in_2 = nn.Conv2d(16, 32, 3, stride=1, padding=1)
        self.conv_in_3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        # The stem's 64 channels of num_mels / 4 bands are read as 16 channels of num_mels bands.
        # A token for each column, from it and the column before, over the whole height.
        self.patch_embed = PatchProjection(16, dim, (num_mels, 2), padding=(0, 1))
        self.blocks = Encoder(depth, dim, num_heads, **encoder)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise_like_vit(
            self, "cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed"
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 128 mels, frames) to (batch, ceil(frames / 4), dim), at most 250 steps."""
        batch, _, num_mels, _ = spectrogram.shape
        maps = F.gelu(self.conv_in_1(spectrogram))
        maps = maps.contiguous(memory_format=torch.channels_last)  # the next layers are 1.4 times as fast
        for convolution in (self.conv_in_2, self.conv_in_3):
            maps = F.gelu(convolution(maps))
        maps = self.patch_embed(maps.reshape(batch, 16, num_mels, maps.shape[-1]))[..., 1:]  # the first sees padding
        maps = maps + self._time_positions(maps.shape[-1]) + self.freq_new_pos_embed
        extra = torch.cat((self.cls_token, self.dist_token), dim=1) + self.new_pos_embed
        tokens = torch.cat((extra.expand(batch, -1, -1), maps.flatten(2).mT), dim=1)
        return self.norm(self.blocks(tokens))[:, 2:]

    def _time_positions(self, steps: int) -> Tensor:
        """Positions for a clip of `steps`: the first ones, or in training a random stretch of 10 s."""
        self.refuse_long(steps)  # the official code cuts such input to 10 s without a word
        spare = self.max_steps - steps
        start = int(torch.randint(spare + 1, ())) if self.training and spare else 0
        return self.time_new_pos_embed[..., start : start + steps]


fpasst = partial(wrap, FramePasst)
"""fPaSST with frame and clip heads; `options` of `FramePrediction`, or of the encoder (drop_path, dropout, ...)."""


released_key = partial(plain_key, ["fpasst"])
"""Our name for a key of the official files: ``model.*``, in the wrapped network ``model.fpasst.*``."""

"""ASiT: a local-global self-supervised vision transformer over 16 x 16 patches of a 128-band spectrogram.

Atito et al., "ASiT: Local-Global Audio Spectrogram Vision Transformer for Event Classification" (TASLP 2024), with the
heads of PretrainedSED (Schmid et al., ICASSP 2025), models/asit.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.encoder import Encoder, PatchProjection, initialise_like_vit
from common.models.frame_prediction import SequenceModel, plain_key, wrap
from common.models.m2d import PATCH


class Asit(SequenceModel):
    """The ASiT encoder; tokens run through the 8 bands of a time step, then to the next step.

    Args:
        position_grid: how the table of 296 = 37 x 8 positions (made for 592 frames) is stretched to other lengths.
            "official" reads it as 8 times x 37 frequencies, stretches the 8 over time and squeezes the 37 into 8 bands;
            the released files were trained so. "exact" reads it in the order of the tokens, 37 times x 8 frequencies,
            and stretches time alone (the official code does so only for 592 frames, where nothing is stretched).
    """

    step_frames = PATCH
    max_steps = 62
    first_centre = 0.0875  # kaldi frame k is centred at 10 k + 12.5 ms
    edge_frames = 1.5

    def __init__(
        self,
        *,
        num_mels: int = 128,
        table_frames: int = 592,
        position_grid: Literal["official", "exact"] = "official",
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        **encoder: Any,
    ):
        super().__init__()
        self.dim = dim
        self.bands = num_mels // PATCH
        self.table_frames, self.position_grid = table_frames, position_grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.bands * (table_frames // PATCH), dim))
        self.patch_embed = PatchProjection(1, dim, PATCH, PATCH)
        self.blocks = Encoder(depth, dim, num_heads, **encoder)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise_like_vit(self, "cls_token", "pos_embed")

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 128 mels, frames) to (batch, 1 + frames // 16 * 8, dim); the class token comes first."""
        patches = self.patch_embed(spectrogram.mT)
        cls_token = self.cls_token.expand(len(spectrogram), -1, -1)
        tokens = torch.cat((cls_token, patches.flatten(2).mT), dim=1)
        return self.norm(self.blocks(tokens + self.positions(spectrogram.shape[-1])))

    def time_steps(self, spectrogram: Tensor) -> Tensor:
        """The mean over the 8 bands of each time step, without the class token; (batch, frames // 16, dim)."""
        return self(spectrogram)[:, 1:].unflatten(1, (-1, self.bands)).mean(dim=2)

    def positions(self, num_frames: int) -> Tensor:
        """Position vectors for a spectrogram of `num_frames`; (1, 1 + steps * 8, dim)."""
        if num_frames == self.table_frames:
            return self.pos_embed
        steps = num_frames // PATCH
        table = self.pos_embed[:, 1:].mT
        table_steps = table.shape[-1] // self.bands
        shape = (self.bands, table_steps) if self.position_grid == "official" else (table_steps, self.bands)
        grid = F.interpolate(table.unflatten(-1, shape), size=(steps, self.bands), mode="bicubic", align_corners=False)
        return torch.cat((self.pos_embed[:, :1], grid.flatten(2).mT), dim=1)


asit = partial(wrap, Asit)
"""ASiT with frame and clip heads; `options` of `FramePrediction`, of `Asit` or of the encoder."""


released_key = partial(plain_key, ["asit"])
"""Our name for a key of the official files: ``model.*``, in the wrapped network ``model.asit.*``."""

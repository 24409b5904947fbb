"""ATST-Frame: a transformer over spectrogram slices of 40 ms.

Li, Shao, Li: "Self-Supervised Audio Teacher-Student Transformer for Both Clip-Level and Frame-Level Tasks" (TASLP
2024), with the heads of PretrainedSED (Schmid et al., ICASSP 2025), models/atstframe.
"""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.models.encoder import Encoder, initialise_like_vit
from common.models.frame_prediction import SequenceModel, plain_key, wrap


class SliceEmbedding(nn.Module):
    """Slices of 4 frames with all their mel bands, each through one linear layer."""

    def __init__(self, num_mels: int, frames: int, dim: int):
        super().__init__()
        self.frames = frames
        self.patch_embed = nn.Linear(num_mels * frames, dim)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, mels, frames) to (batch, frames // 4, dim); frames that fill no slice are left out."""
        batch, _, num_mels, length = spectrogram.shape
        steps = length // self.frames
        slices = spectrogram[..., : steps * self.frames].reshape(batch, num_mels, steps, self.frames)
        return self.patch_embed(slices.transpose(1, 2).flatten(2))  # mel by mel, four frames each


class AtstFrame(SequenceModel):
    """The frame-level ATST encoder, base size."""

    step_frames = 4
    max_steps: int
    edge_frames = -1.0
    unused_parameters = ("mask_embed",)

    def __init__(
        self,
        *,
        num_mels: int = 64,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        max_steps: int = 250,
        **encoder: Any,
    ):
        super().__init__()
        self.dim = dim
        self.max_steps = max_steps
        # Stands for masked slices in self-supervised training; here it only keeps its place in the files.
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, dim), requires_grad=False)
        self.pos_embed = nn.Parameter(torch.empty(1, max_steps + 1, dim))  # entry 0 belongs to a token that is gone
        self.patch_embed = SliceEmbedding(num_mels, self.step_frames, dim)
        self.blocks = Encoder(depth, dim, num_heads, **{"qkv_bias": False, **encoder})
        self.norm_frame = nn.LayerNorm(dim, eps=1e-6)
        initialise_like_vit(self, "pos_embed")

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 64 mels, frames) to (batch, frames // 4, dim), at most 250 steps."""
        tokens = self.patch_embed(spectrogram)
        self.refuse_long(tokens.shape[1])
        return self.norm_frame(self.blocks(tokens + self.pos_embed[:, 1 : tokens.shape[1] + 1]))


atst_frame = partial(wrap, AtstFrame)
"""ATST-F with frame and clip heads; `options` of `FramePrediction`, or of the encoder (drop_path, dropout, ...)."""


def released_key(key: str) -> str | None:
    """Our name for a key of the official files, or None for parts that do not belong to the network.

    Known: PretrainedSED (``model.atst.*``), and the authors' own files, where the encoder is
    ``model.teacher.encoder.*`` or ``encoder.encoder.*``; these have no heads (build with ``head_type=None``) and one
    class token to skip.
    """
    if "mel_transform" in key:
        return None  # window and filterbank, which the front end computes
    for prefix in ("model.teacher.encoder.", "encoder.encoder.frame_encoder.", "encoder.encoder."):
        if key.startswith(prefix):
            rest = key.removeprefix(prefix)
            if rest == "cls_token" or rest.startswith("teacher_module."):
                return None
            return "model." + re.sub(r"^norm\.", "norm_frame.", rest)
    if key.startswith(("model.student.", "model.teacher.")):
        return None  # the student and the projectors of self-supervised training
    return plain_key(["atst"], key)

"""M2D: Masked Modeling Duo, a vision transformer over 16 x 16 patches of an 80-band spectrogram.

Niizumi et al., "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework" (TASLP 2024), the form
m2d_clap_vit_base-80x1001p16x16 with the heads of PretrainedSED (Schmid et al., ICASSP 2025), models/m2d.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.encoder import Encoder, PatchProjection, initialise_like_vit
from common.models.frame_prediction import SequenceModel, plain_key, wrap

PATCH = 16


class M2d(SequenceModel):
    """The M2D encoder; the patches of one time step are stacked, low frequencies first."""

    step_frames = PATCH
    max_steps: int
    first_centre = 0.075
    edge_frames = -1.0
    unused_parameters = ("norm_stats",)

    def __init__(
        self,
        *,
        num_mels: int = 80,
        max_frames: int = 1001,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        **encoder: Any,
    ):
        super().__init__()
        self.bands = num_mels // PATCH
        self.max_frames = max_frames
        self.max_steps = max_frames // PATCH
        self.dim = self.bands * dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.bands * self.max_steps, dim))
        # Mean and deviation stored in the files; the front end uses the constants -7.1 and 4.2, as the heads learnt it.
        self.norm_stats = nn.Parameter(torch.tensor([-7.1, 4.2]), requires_grad=False)
        self.register_state_dict_post_hook(_leave_out_norm_stats)
        self.register_load_state_dict_pre_hook(_keep_norm_stats)
        self.patch_embed = PatchProjection(1, dim, PATCH, PATCH)
        self.blocks = Encoder(depth, dim, num_heads, **encoder)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise_like_vit(self, "cls_token", "pos_embed")

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(batch, 1, 80 mels, frames) to (batch, steps, 3840), a step for 16 frames.

        Input beyond 1001 frames is cut into pieces of 1001 as the authors do; the last one is padded with zeros to a
        multiple of 16, while a full piece loses its last 9 frames.
        """
        last = spectrogram.shape[-1] % self.max_frames % PATCH
        if last:
            spectrogram = F.pad(spectrogram, (0, PATCH - last))
        return torch.cat([self._encode(piece) for piece in spectrogram.split(self.max_frames, dim=-1)], dim=1)

    def _encode(self, spectrogram: Tensor) -> Tensor:
        """At most 1001 frames to (batch, steps, 3840)."""
        patches = self.patch_embed(spectrogram)
        batch, _, bands, steps = patches.shape
        positions = self.pos_embed[:, 1:].unflatten(1, (self.bands, self.max_steps))[:, :, :steps]
        patches = patches.flatten(2).mT + positions.flatten(1, 2)  # token = band * steps + step
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = self.norm(self.blocks(torch.cat((cls_token, patches), dim=1)))
        return tokens[:, 1:].unflatten(1, (bands, steps)).transpose(1, 2).flatten(2)


# The statistics are constants of the front end, not weights: files are written without them; those in files are unused.
def _leave_out_norm_stats(module: M2d, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    state.pop(f"{prefix}norm_stats", None)


def _keep_norm_stats(module: M2d, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    state[f"{prefix}norm_stats"] = module.norm_stats.detach()


m2d = partial(wrap, M2d)
"""M2D with frame and clip heads; `options` of `FramePrediction`, or of the encoder (drop_path, dropout, ...)."""


NOT_THE_ENCODER = ("decoder", "mask_token", "audio_proj.", "text_proj.", "text_encoder.", "head", "to_spec.")


def released_key(key: str) -> str | None:
    """Our name for a key of the official files, or None for parts that do not belong to the network.

    Known: PretrainedSED (``model.m2d.backbone.*`` or ``model.backbone.*``), and the authors' own files, flat or below
    ``module.ar.runtime.backbone.``; these have no frame heads (build with ``head_type=None``).
    """
    key = key.removeprefix("module.ar.runtime.backbone.").removeprefix("module.")
    bare = key.removeprefix("model.").removeprefix("m2d.")
    if bare.startswith(NOT_THE_ENCODER) or bare.endswith("norm_stats"):
        return None  # other parts of pre-training, tables of the front end, statistics that are not used
    if key.startswith(("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")):
        return f"model.{key}"
    return plain_key(["m2d.backbone", "backbone"], key)

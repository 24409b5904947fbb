"""PaSST: a Vision Transformer on overlapping patches of a log-mel spectrogram, trained with patchout.

PaSST, models/passt.py (Koutini et al., Interspeech 2022, arXiv 2110.05069).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.transfer import to_device
from common.models.encoder import Encoder, PatchProjection, initialise_like_vit
from common.models.network import ModelOutput


class Patchout(NamedTuple):
    """A draw for one batch: where the time embedding starts, and the columns, rows and tokens to keep (None: all)."""

    time_offset: int = 0
    columns: Tensor | None = None
    rows: Tensor | None = None
    tokens: Tensor | None = None


def draw_kept(length: int, dropped: int, generator: torch.Generator | None) -> Tensor | None:
    """Which of `length` places stay, in their order, when `dropped` of them are left out at random; None for 0."""
    if not dropped:
        return None
    if dropped >= length:
        raise ValueError(f"patchout would drop {dropped} of {length} patches; make it smaller or the clips longer")
    return torch.randperm(length, generator=generator)[: length - dropped].sort().values


class PaSST(nn.Module):
    """PaSST on log-mel spectrograms; defaults as in passt_s_swa_p16_128_ap476.

    Args:
        fstride, tstride: step between patches in mel bands and in frames.
        input_fdim: mel bands of the input.
        input_tdim: frames that the time embedding is made for (998 for 10 s); shorter clips use its beginning, in
            training a random stretch of it.
        u_patchout: patches left out at random in training (unstructured patchout).
        s_patchout_t, s_patchout_f: columns and rows left out in training. The released models of stride 10: 40 and 4.
        depth: number of blocks; 7 for passt_l.
        dropout, attention_dropout, drop_path, checkpointing: as in Encoder.
    """

    # In the released files, but without influence on any output.
    unused_parameters = ("head_dist.weight", "head_dist.bias")

    def __init__(
        self,
        num_classes: int = 527,
        fstride: int = 10,
        tstride: int = 10,
        input_fdim: int = 128,
        input_tdim: int = 998,
        u_patchout: int = 0,
        s_patchout_t: int = 0,
        s_patchout_f: int = 0,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        in_channels: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ):
        super().__init__()
        # Sizes of the tables; the convolution gives up to one row and column fewer.
        grid = input_fdim // fstride, input_tdim // tstride
        self.u_patchout, self.s_patchout_t, self.s_patchout_f = u_patchout, s_patchout_t, s_patchout_f
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, embed_dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, grid[0], 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, embed_dim, 1, grid[1]))
        self.patch_embed = PatchProjection(in_channels, embed_dim, patch_size, (fstride, tstride))
        self.dropout = nn.Dropout(dropout)
        training: dict[str, Any] = {"drop_path": drop_path, "checkpointing": checkpointing, "dropout": dropout}
        self.blocks = Encoder(depth, embed_dim, num_heads, attention_dropout=attention_dropout, **training)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes))
        self.head_dist = nn.Linear(embed_dim, num_classes)
        self.embedding_size = embed_dim
        initialise_like_vit(self)
        for name in ("cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed"):
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)

    def draw_patchout(self, rows: int, columns: int, generator: torch.Generator | None = None) -> Patchout:
        """Draw the patchout of one batch in training; `generator` is on the CPU."""
        spare = self.time_new_pos_embed.shape[-1] - columns
        offset = int(torch.randint(spare + 1, (), generator=generator)) if spare > 0 else 0
        kept_columns = draw_kept(columns, self.s_patchout_t, generator)
        kept_rows = draw_kept(rows, self.s_patchout_f, generator)
        patches = (columns - self.s_patchout_t) * (rows - self.s_patchout_f)
        return Patchout(offset, kept_columns, kept_rows, draw_kept(patches, self.u_patchout, generator))

    def join_tokens(self, patches: Tensor, patchout: Patchout) -> Tensor:
        """(batch, dim, rows, columns) to (batch, 2 + patches, dim): class, distillation token, then rows of patches."""
        known, columns = self.time_new_pos_embed.shape[-1], patches.shape[-1]
        if columns > known:
            raise ValueError(
                f"the spectrogram has {columns} columns of patches, this PaSST has positions for {known}; "
                f"cut the clip into windows (AudioModel does) or make the network with a larger input_tdim"
            )
        time = self.time_new_pos_embed[..., patchout.time_offset : patchout.time_offset + columns]
        patches = _keep(_keep(patches + time + self.freq_new_pos_embed, 3, patchout.columns), 2, patchout.rows)
        sequence = _keep(patches.flatten(2).mT, 1, patchout.tokens)
        special = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        return self.dropout(torch.cat([special.expand(sequence.shape[0], -1, -1), sequence], dim=1))

    def tokens(self, spectrogram: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Input of the first block, (batch, 2 + patches, dim); with patchout in training."""
        patches = self.patch_embed(spectrogram)
        rows, columns = patches.shape[2:]
        drawn = self.draw_patchout(rows, columns, generator) if self.training else Patchout()
        return self.join_tokens(patches, to_device(drawn, patches.device))

    def forward(self, spectrogram: Tensor, generator: torch.Generator | None = None) -> ModelOutput:
        """(batch, 1, mels, frames) to logits (batch, classes) and the mean of the two special tokens (batch, dim).

        `generator` (on the CPU) draws patchout and the stretch of the time embedding in training; None for torch's own.
        """
        tokens = self.blocks(self.tokens(spectrogram, generator))
        embedding = self.norm(tokens[:, :2]).mean(dim=1)
        return ModelOutput(logits=self.head(embedding), embedding=embedding)


def _keep(values: Tensor, dim: int, places: Tensor | None) -> Tensor:
    return values if places is None else values.index_select(dim, places)


def from_image_weights(state_dict: dict[str, Tensor], network: PaSST) -> dict[str, Tensor]:
    """DeiT weights (base distilled, 384 x 384) in the form of `network`, without heads.

    The kernels of the three colours are summed; the position grid is resized to the patches and averaged over time for
    the frequency embedding, over frequency for the time embedding.
    """
    state = {key: value for key, value in state_dict.items() if not key.startswith(("head", "pos_embed"))}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    positions = state_dict["pos_embed"]
    state["new_pos_embed"] = positions[:, :2]
    side = round((positions.shape[1] - 2) ** 0.5)
    grid = positions[:, 2:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    size = network.freq_new_pos_embed.shape[2], network.time_new_pos_embed.shape[3]
    grid = F.interpolate(grid, size=size, mode="bicubic")
    state["freq_new_pos_embed"] = grid.mean(dim=3, keepdim=True)
    state["time_new_pos_embed"] = grid.mean(dim=2, keepdim=True)
    return state

"""CRNN of the DCASE Task 4 baselines (DESED): convolutions, a bidirectional GRU, attention pooling.

DESED_task, desed_task/nnet/CRNN.py, and recipes/dcase2024_task4_baseline/confs/pretrained.yaml.

The 2024 network reads two things, the scaled mel spectrogram and the frame embeddings of a frozen BEATs:

    model = create_audio_model("desed_crnn_2024")
    load_released_state_dict(model, state_dict)             # keys as in the official checkpoint
    spectrogram = model.front_end(waveform)                 # (batch, 1, 128, 626) for 10 s, -1 to 1 in each clip
    output = model.network(spectrogram, embeddings)         # embeddings (batch, 768, tokens); 496 tokens for 10 s
    strong, weak = model.network.predict(spectrogram, embeddings, class_mask)     # probabilities
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.models.encoder import check_options
from common.models.frame_prediction import LEAST_LOGIT, BidirectionalRnn, interpolate_at, pooled_logits, resize_time
from common.models.network import ModelOutput

FILTERS = (16, 32, 64, 128, 128, 128, 128)
POOLING = ((2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2))


class Gate(nn.Module):
    """Channels scaled by a sigmoid.

    "glu" (baselines): a linear map of the input, times the sigmoid of the input. "cg" (context gating, winner of
    2024): the input, times the sigmoid of a linear map.
    """

    def __init__(self, num_channels: int, kind: Literal["glu", "cg"]):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(num_channels, num_channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, time, mels) to the same shape."""
        linear = self.linear(maps.movedim(1, -1)).movedim(-1, 1)
        return linear * maps.sigmoid() if self.kind == "glu" else maps * linear.sigmoid()


class ConvolutionBlock(nn.Sequential):
    """3 x 3 convolution, batch norm, gate, dropout, average pooling."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        pool: Sequence[int],
        gate: Literal["glu", "cg"],
        dropout: float,
        norm_momentum: float,
    ):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=norm_momentum)
        self.gate = Gate(channels, gate)
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d((pool[0], pool[1]))


class Crnn(nn.Module):
    """Frame and clip probabilities of sound events, 156 frames of 64 ms for 10 s.

    Args:
        num_classes: 27 in 2024 (10 of DESED, 17 of MAESTRO), 10 in 2023.
        embedding_dim: width of the embeddings that are read beside the spectrogram; None: no embeddings (2023).
        aggregation: how embeddings come to the frames of the CNN. "adaptive" (baseline) averages neighbouring tokens,
            which for BEATs are *frequency* patches of one time step, so the frequencies cycle from frame to frame;
            "nearest" (some models of the 2024 winner) picks tokens; "exact" takes the mean over BEATs' 8 frequency
            patches and interpolates it at the true time of each frame.
        filters, pooling: channels and (time, mels) of each block; the mels must come down to 1.
        num_rnn_layers: the recipe's YAML says 1, but the official code builds 2.
        norm_momentum: of the batch norms, in torch's sense. With 0.99, as in the published runs, the statistics are
            almost the last training batch's; 0.1 averages over about ten.
        dropstep: largest share of the frames that time masking takes from either stream in training, and
            `dropstep_frames` the most frames; 0 turns it off.
        attention: clip probabilities by attention; otherwise the mean over frames.
        fusion_dim: width of the joined features and embeddings; None: the features' width. The winner of 2024: 256.
    """

    def __init__(
        self,
        num_classes: int = 27,
        embedding_dim: int | None = 768,
        aggregation: Literal["adaptive", "nearest", "exact"] = "adaptive",
        *,
        filters: Sequence[int] = FILTERS,
        pooling: Sequence[Sequence[int]] = POOLING,
        gate: Literal["glu", "cg"] = "glu",
        norm_momentum: float = 0.99,
        rnn_dim: int = 192,
        num_rnn_layers: int = 2,
        dropout: float = 0.2,
        rnn_dropout: float = 0.0,
        dropstep: float = 0.3,
        dropstep_frames: int = 16,
        attention: bool = True,
        fusion_dim: int | None = None,
    ):
        super().__init__()
        self.embedding_dim, self.aggregation = embedding_dim, aggregation
        self.dropstep, self.dropstep_frames = dropstep, dropstep_frames
        blocks = zip((1, *filters[:-1]), filters, pooling, strict=True)
        self.cnn = nn.Sequential(
            *(ConvolutionBlock(fan_in, out, pool, gate, dropout, norm_momentum) for fan_in, out, pool in blocks)
        )
        if embedding_dim is not None:
            self.fusion = nn.Linear(filters[-1] + embedding_dim, fusion_dim or filters[-1])
        joined = filters[-1] if embedding_dim is None else fusion_dim or filters[-1]
        self.rnn = BidirectionalRnn(joined, rnn_dim, num_rnn_layers, dropout=rnn_dropout)
        self.dropout = nn.Dropout(dropout)
        self.strong_head = nn.Linear(2 * rnn_dim, num_classes)
        self.attention_head = nn.Linear(2 * rnn_dim, num_classes) if attention else None

    def forward(
        self, spectrogram: Tensor, embeddings: Tensor | None = None, class_mask: Tensor | None = None
    ) -> ModelOutput:
        """Scores before the sigmoid; `predict` gives them after it.

        Args:
            spectrogram: (batch, 1, 128 mels, frames), scaled to -1..1.
            embeddings: (batch, embedding_dim, tokens); None for a network without embeddings.
            class_mask: (batch, classes), True where a class is annotated for the clip's data set; the others get a
                probability of 0 and no attention.

        Returns:
            logits by `pooled_logits`; frames (batch, time, 2 * rnn_dim) out of the GRU, embedding is their mean.
        """
        return self.score(self.read(spectrogram, embeddings), class_mask)

    def read(self, spectrogram: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Input of the heads, (batch, time, 2 * rnn_dim)."""
        return self.dropout(self.rnn(self.fuse(self.cnn(spectrogram.mT).squeeze(-1).mT, embeddings)))

    def score(self, frames: Tensor, class_mask: Tensor | None = None) -> ModelOutput:
        """Output of the heads for the result of `read`, as in `forward`."""
        attention = None if self.attention_head is None else self.attention_head(frames)
        frame_logits, logits = score_heads(self.strong_head(frames), attention, class_mask)
        return ModelOutput(logits, frames.mean(dim=1), frames, frame_logits)

    def predict(
        self, spectrogram: Tensor, embeddings: Tensor | None = None, class_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Probabilities: strong (batch, classes, frames) and weak (batch, classes); arguments as for `forward`."""
        output = self(spectrogram, embeddings, class_mask)
        return output.frame_logits.mT.sigmoid(), output.logits.sigmoid()

    def fuse(self, features: Tensor, embeddings: Tensor | None) -> Tensor:
        """CNN features (batch, frames, channels) joined with the embeddings: (batch, frames, fusion_dim)."""
        if self.embedding_dim is None:
            if embeddings is not None:
                raise UserError("This CRNN reads no embeddings. Build it with embedding_dim, or leave them away.")
            return features
        if embeddings is None or embeddings.shape[1] != self.embedding_dim:
            found = "none" if embeddings is None else f"shape {tuple(embeddings.shape)}"
            raise UserError(
                f"This CRNN needs embeddings (batch, {self.embedding_dim}, tokens) beside the spectrogram, found "
                f"{found}. Give it BEATs embeddings, or build it with embedding_dim=None."
            )
        embeddings = self._at_frames(embeddings, features.shape[1])
        if self.training and self.dropstep > 0:
            features, embeddings = (
                mask_time(stream, self.dropstep_frames, self.dropstep) for stream in (features, embeddings)
            )
        return self.fusion(self.dropout(torch.cat((features, embeddings), dim=-1)))

    def _at_frames(self, embeddings: Tensor, num_frames: int) -> Tensor:
        """(batch, dim, tokens) to (batch, num_frames, dim)."""
        if self.aggregation == "adaptive":
            return resize_time(partial(F.adaptive_avg_pool1d, output_size=num_frames), embeddings).mT
        if self.aggregation == "nearest":
            return F.interpolate(embeddings, size=num_frames, mode="nearest-exact").mT
        steps = embeddings.unflatten(-1, (-1, 8)).mean(dim=-1).mT
        # Frame i holds spectrogram frames 4 i .. 4 i + 3 of 16 ms; BEATs' step t is centred at 160 t + 87.5 ms.
        centres = 0.064 * torch.arange(num_frames, device=steps.device) + 0.024
        return interpolate_at(steps, (centres - 0.0875) / 0.16)


def score_heads(
    frame_logits: Tensor, attention_logits: Tensor | None, class_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Frame logits (batch, time, classes) and clip logits (batch, classes) of the heads under `Crnn`'s class mask.

    `attention_logits` has the shape of the frame logits; None takes the mean over frames as clip probability.
    """
    if attention_logits is not None:
        logits = pooled_logits(frame_logits, attention_logits, class_mask)
    else:
        logits = frame_logits.float().sigmoid().mean(dim=1).logit(eps=1e-7)
    if class_mask is not None:
        frame_logits = frame_logits.masked_fill(~class_mask[:, None], LEAST_LOGIT)
        logits = logits.masked_fill(~class_mask, LEAST_LOGIT)
    return frame_logits, logits


def mask_time(sequence: Tensor, most_frames: int, largest_share: float) -> Tensor:
    """Zeros over a random stretch of each item of (batch, frames, dim), at most `most_frames` and that share of all."""
    uniform = torch.rand(2, len(sequence), device=sequence.device)
    first, last = masked_frames(uniform[0], uniform[1], sequence.shape[1], most_frames, largest_share)
    index = torch.arange(sequence.shape[1], device=sequence.device)
    masked = (index >= first[:, None]) & (index < last[:, None])
    return sequence.masked_fill(masked[..., None], 0.0)


def masked_frames(
    width: Tensor, start: Tensor, num_frames: int, most_frames: int, largest_share: float
) -> tuple[Tensor, Tensor]:
    """First frame of each stretch, and frame after its last, from uniform numbers (batch,) for width and start.

    Both are rounded down, so the last frame is never masked (torchaudio's TimeMasking).
    """
    widths = width * min(most_frames, int(largest_share * num_frames))
    first = (start * (num_frames - widths)).long()
    return first, first + widths.long()


def desed_crnn(**options: Any) -> Crnn:
    """A baseline's network; `options` of `Crnn`, or the whole `net` section of the official recipe's YAML."""
    if "nclass" in options:
        options = recipe_options(options)
    check_options(options, Crnn)
    return Crnn(**options)


RECIPE_NAMES = {
    "nclass": "num_classes",
    "nb_filters": "filters",
    "pooling": "pooling",
    "activation": "gate",
    "n_RNN_cell": "rnn_dim",
    "n_layers_RNN": "num_rnn_layers",
    "dropout": "dropout",
    "dropout_recurrent": "rnn_dropout",
    "dropstep_recurrent": "dropstep",
    "dropstep_recurrent_len": "dropstep_frames",
    "attention": "attention",
}
FIXED_IN_RECIPE = {  # options of the official code, with the values of the published networks
    "n_in_channel": (1,),
    "rnn_type": ("BGRU",),
    "embedding_type": ("frame", "global"),
    "specaugm_t_p": (0.0,),
    "specaugm_f_p": (0.0,),
    "cnn_integration": (False,),
    "freeze_bn": (False,),
    "train_cnn": (True,),
}
WITHOUT_EFFECT = ("rnn_layers", "specaugm_t_l", "specaugm_f_l", "kernel_size", "padding", "stride")


def recipe_options(net: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Crnn` from the `net` section of the official YAML; `rnn_layers` has no effect there, nor here."""
    options = {ours: net[theirs] for theirs, ours in RECIPE_NAMES.items() if theirs in net}
    options["embedding_dim"] = net.get("embedding_size", 527) if net.get("use_embeddings", False) else None
    if options["embedding_dim"] is not None:
        aggregations = {"pool1d": "adaptive", "interpolate": "nearest"}
        if (given := net.get("aggregation_type")) not in aggregations:
            raise UserError(f"aggregation_type {given} is not built here; use pool1d or interpolate")
        options["aggregation"] = aggregations[given]
    read = {*RECIPE_NAMES, *FIXED_IN_RECIPE, *WITHOUT_EFFECT, "use_embeddings", "embedding_size", "aggregation_type"}
    for name, value in net.items():
        if name not in read:
            raise UserError(f"net.{name} is not a setting of the DESED CRNN")
        if name in FIXED_IN_RECIPE and value not in FIXED_IN_RECIPE[name]:
            raise UserError(f"net.{name} is {value}, but the DESED CRNN is built only with {FIXED_IN_RECIPE[name][0]}")
    return options


def released_key(key: str) -> str | None:
    """Our name for a key of the official checkpoints (``cnn.cnn.conv0.weight``, ``dense_softmax.weight``, ...)."""
    first, _, rest = key.partition(".")
    if first == "cnn":
        layer, _, rest = rest.removeprefix("cnn.").partition(".")
        kind = layer.rstrip("0123456789")
        ours = {"conv": "conv", "batchnorm": "norm", "glu": "gate", "cg": "gate"}.get(kind, kind)
        return f"cnn.{layer.removeprefix(kind)}.{ours}.{rest}"
    ours = {"dense": "strong_head", "dense_softmax": "attention_head", "cat_tf": "fusion"}.get(first, first)
    return f"{ours}.{rest}"

"""From the steps of an encoder to frames, and from frames to strong and weak logits; for every frame-level model.

PretrainedSED, models/prediction_wrapper.py (Schmid et al., ICASSP 2025, arXiv 2409.09546).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from common.audio_model import ModelOutput


def resample_steps(steps: Tensor, num_frames: int) -> Tensor:
    """(batch, steps, dim) to (batch, num_frames, dim): means of neighbours to fewer, linear interpolation to more."""
    if steps.shape[1] == num_frames:
        return steps
    if steps.shape[1] > num_frames:
        return F.adaptive_avg_pool1d(steps.mT, num_frames).mT
    return F.interpolate(steps.mT, size=num_frames, mode="linear").mT


class SequenceModel(nn.Module):
    """Bidirectional recurrent layers over the frames, as in the teachers of PretrainedSED."""

    def __init__(self, kind: str, dim: int, hidden: int = 2048, num_layers: int = 2, dropout: float = 0.0):
        super().__init__()
        kinds = {"gru": nn.GRU, "lstm": nn.LSTM}
        if kind not in kinds:
            raise ValueError(f"seq_model_type is None, gru or lstm, not {kind}")
        self.rnn = kinds[kind](dim, hidden, num_layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.dim = 2 * hidden

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, time, dim) to (batch, time, 2 hidden)."""
        return self.rnn(frames)[0]


class FramePredictor(nn.Module):
    """An encoder, its steps brought to frames, an optional sequence model, a strong and a weak head.

    Args:
        model: spectrogram (batch, 1, mels, frames) to (batch, steps, dim).
        embed_dim: dim of the steps.
        num_classes: of the strong head (447 of AudioSet strong).
        num_weak_classes: of the weak head; None for `num_classes`.
        seq_len: frames that every clip is brought to, whatever its length, as the released models do (250 for 10 s,
            and also for 5 s); None keeps the encoder's own steps, so that a frame is as long in every clip.
        seq_model_type: None, gru or lstm between frames and heads; rnn_dim is its size per direction.
        head_type: linear (the weak head reads the mean frame); attention (DESED: the weak score is the mean of strong
            scores weighted by a softmax over classes); None for no heads.
    """

    def __init__(
        self,
        model: nn.Module,
        embed_dim: int,
        num_classes: int = 447,
        num_weak_classes: int | None = None,
        seq_len: int | None = 250,
        seq_model_type: str | None = None,
        rnn_layers: int = 2,
        rnn_dim: int = 2048,
        rnn_dropout: float = 0.0,
        head_type: str | None = "linear",
    ):
        super().__init__()
        if head_type not in ("linear", "attention", None):
            raise ValueError(f"head_type is linear, attention or None, not {head_type}")
        self.model = model
        self.seq_len = seq_len
        self.seq_model: SequenceModel | None = None
        if seq_model_type is not None:
            self.seq_model = SequenceModel(seq_model_type, embed_dim, rnn_dim, rnn_layers, rnn_dropout)
            embed_dim = self.seq_model.dim
        self.head_type = head_type
        self.embedding_size = embed_dim
        if head_type is not None:
            self.strong_head = nn.Linear(embed_dim, num_classes)
            self.weak_head = nn.Linear(embed_dim, num_weak_classes or num_classes)

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        """(batch, 1, mels, frames) to weak logits, mean frame, frames (batch, time, dim), and strong logits."""
        frames = self.model(spectrogram)
        if self.seq_len is not None:
            frames = resample_steps(frames, self.seq_len)
        if self.seq_model is not None:
            frames = self.seq_model(frames)
        embedding = frames.mean(dim=1)
        if self.head_type is None:
            return ModelOutput(logits=None, embedding=embedding, frames=frames)
        strong = self.strong_head(frames)
        if self.head_type == "linear":
            weak = self.weak_head(embedding)
        else:
            attention = self.weak_head(frames).softmax(dim=-1).clamp(min=1e-7)
            scores = (strong.sigmoid() * attention).sum(dim=1) / attention.sum(dim=1)
            weak = scores.logit(eps=1e-6)  # the mean of scores has no logits of its own
        return ModelOutput(logits=weak, embedding=embedding, frames=frames, frame_logits=strong)

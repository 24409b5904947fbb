"""Settings of audio moment retrieval."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, RunSettings, Settings, TrainerSettings
from retrieval.settings import AudioEncoder, TextEncoderSettings

TRAINED = "train/best.ckpt"
"""Weights of the best epoch, in the folder of a run."""


class MomentSource(Settings):
    """Queries of one split; recordings lie in `audio` and features in `features` of the folder."""

    root: Path
    """Folder of the data set."""
    annotations: str
    """File of the queries in this folder, such as castella_train_release.jsonl."""


class FeatureEncoder(Settings):
    """Encoders for features of your own: the dual encoder of a run, or any two models."""

    run: Path | None = None
    """Run of text-to-audio retrieval; gives both sides, and the similarity of text and audio."""
    audio: AudioEncoder | None = None
    """Any registered audio model, without a run."""
    text: TextEncoderSettings | None = None
    """Any text encoder, without a run."""
    window: float = Field(1.0, ge=1)
    """Seconds of one input of the audio encoder, around the middle of the second that its vector stands for."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "FeatureEncoder":
        if (self.run is None) == (self.audio is None or self.text is None):
            raise ValueError("give either a run, or an audio model and a text encoder")
        return self


class Features(Settings):
    """One vector a second for each recording, one a word for each query."""

    audio: str = "clap"
    """Folder in `features` with <vid>.npz (key features)."""
    text: str = "clap_text"
    """Folder in `features` with qid<qid>.npz (key last_hidden_state)."""
    encoder: FeatureEncoder | None = None
    """Encoders that write missing files; null: the files were downloaded."""
    keep_in_memory: bool = True
    """Read each file once; off for Clotho-Moment, 23 GB."""


class Data(Settings):
    """Queries for training, for the choice of the epoch, and for the test."""

    pretraining: MomentSource | None = None
    """Synthetic queries to learn from first, such as Clotho-Moment."""
    training: MomentSource
    """Queries to learn from."""
    validation: MomentSource
    """Queries that choose the best epoch, and the cut of a similarity."""
    evaluation: MomentSource
    """Queries of the reported figures."""
    max_seconds: int = Field(300, ge=1)
    """Longest input; a longer recording is cut in training and answered piece by piece."""
    num_workers: int = Field(0, ge=0)
    """Processes that read features."""


class Losses(Settings):
    """Factors of the losses; span, giou and label also weigh the costs of the matching."""

    span: float = Field(10.0, ge=0)
    """L1 of centre and width."""
    giou: float = Field(1.0, ge=0)
    """Generalised intersection over union."""
    label: float = Field(4.0, ge=0)
    """Foreground or background."""
    background: float = Field(0.1, ge=0)
    """Weight of the background in the label loss."""
    saliency: float = Field(1.0, ge=0)
    """Saliency of the seconds."""
    margin: float = Field(0.2, ge=0)
    """Margin between seconds inside and outside."""
    temperature: float = Field(0.5, gt=0)
    """Temperature of the rank contrast."""
    max_windows: int = Field(5, ge=1)
    """True windows of a query in one epoch, drawn where there are more."""


class Detector(Settings):
    """QD-DETR."""

    kind: Literal["qd_detr"] = "qd_detr"
    """Tells this system from the others."""
    dim: int = Field(256, gt=0)
    """Size of the hidden vectors."""
    heads: int = Field(8, gt=0)
    """Attention heads."""
    feedforward: int = Field(1024, gt=0)
    """Hidden size of the feed-forward parts."""
    encoder_layers: int = Field(2, ge=1)
    """Layers from text to audio, and as many of self-attention."""
    decoder_layers: int = Field(2, ge=1)
    """Layers of the decoder."""
    slots: int = Field(10, ge=1)
    """Windows that it can find in a recording."""
    input_dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout of the features."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the layers."""
    max_words: int = Field(32, ge=1)
    """Longest query; the rest is cut."""
    endpoints: Literal["before", "after"] = "after"
    """Place of the relative time of a second: before its feature (Lighthouse) or after it (DCASE baseline)."""
    batch_fault: bool = False
    """Reproduce the published fault by which a result depends on the other recordings of its batch."""
    losses: Losses = Losses()
    lr: float = Field(1e-4, gt=0)
    """Learning rate, constant."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of AdamW."""
    batch_size: int = Field(32, ge=2)
    """Queries in a batch, per device."""
    pretraining_epochs: int = Field(100, ge=1)
    """Epochs on `data.pretraining`."""
    trainer: TrainerSettings = TrainerSettings(epochs=200, gradient_clip=0.1)
    """Length and devices of the training."""


class Head(Settings):
    """A small convolutional network that learns to sharpen similarity curves."""

    width: int = Field(32, gt=0)
    """Channels of its three layers."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the layers."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate, constant."""
    weight_decay: float = Field(1e-3, ge=0)
    """Weight decay of AdamW."""
    epochs: int = Field(40, ge=1)
    """Epochs on `data.training`, one step a query."""
    validate_every: int = Field(4, ge=1)
    """Epochs between validations."""


class Similarity(Settings):
    """The similarity of text and audio over time, cut into spans; without training, or with a small head."""

    kind: Literal["similarity"]
    """Tells this system from the others."""
    index: Path | None = None
    """Index of the recordings in windows (`retrieval index DIR --windows 10 --hop 5`); null: features of a run."""
    head: Head | None = None
    """Learns to sharpen the curve; null: the curve as it is, without training."""
    spans: Literal["threshold", "boxes"] = "boxes"
    """Runs above a threshold, or event boxes."""
    smoothing: tuple[int, ...] = (1, 3, 7)
    """Seconds of a moving mean to choose from."""
    thresholds: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Thresholds to choose from: shares of the way from the lowest to the highest similarity of a recording."""
    step_filters: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    """Lengths of the step filter of event boxes to choose from, in seconds."""
    merge_thresholds: tuple[float, ...] = (0.1, 0.2, 0.4)
    """Depths of a gap that separates event boxes to choose from."""


class MomentSettings(RunSettings):
    """Moments of long recordings by text."""

    name: str = Field("moments", pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} in it stands for its value."""
    runs: Path = Path("runs/moments")
    """Folder of the runs."""
    data: Data
    features: Features = Features()
    system: Detector | Similarity = Field(Detector(), discriminator="kind")
    """A trained detector, or the similarity of a dual encoder, with or without training."""
    times: Literal["whole", "published", "exact"] = "whole"
    """whole: whole seconds inside the recording, no empty window; published: 0 to 300 s, rounded; exact: inside the
    recording."""
    eval_batch: int = Field(32, ge=1)
    """Queries answered at once."""

    @property
    def is_trained(self) -> bool:
        """Whether the system learns from `data.training`; its best weights are `TRAINED`."""
        return isinstance(self.system, Detector) or self.system.head is not None

    def value_in_name(self, field: str) -> Any:
        """The system's name stands in place of its settings."""
        return self.system.kind if field == "system" else super().value_in_name(field)

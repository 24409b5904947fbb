"""Settings of the baseline: what a YAML file in configs/ may say. No torch here."""

from typing import Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.settings.trainer import TrainerSettings
from task4_sed.settings import (
    TRAINING_SETS,
    EmbeddingSettings,
    FilterSettings,
    FrontEndSettings,
    ModelSettings,
    SourceSettings,
    SystemSettings,
    ValidationSettings,
)


class GroupSettings(Settings):
    """A part of every training batch."""

    sets: list[TRAINING_SETS] = Field(min_length=1)
    """Where its clips are drawn from, together; sets of one group must have the same kind of labels."""
    clips: int = Field(ge=1)
    """How many there are in each batch."""


class DataSettings(SourceSettings):
    """Where the clips are, and how a batch is put together."""

    batch: list[GroupSettings] = Field(min_length=1)
    """Groups of each batch, in order. An epoch ends with the group that has the fewest batches."""


class MixupSettings(Settings):
    """Within weak, strong and MAESTRO clips each, a batch is mixed with itself, on mel magnitudes."""

    probability: float = Field(0.5, ge=0, le=1)
    """Of mixing a batch."""
    alpha: float = Field(0.2, gt=0)
    """One weight for all clips of a kind is drawn from Beta(alpha, alpha)."""
    draws: Literal["consistent", "official"] = "consistent"
    """official draws weight and partners anew for the embeddings, so that features and embeddings of a clip belong to
    different mixtures, and mixes the labels twice."""
    weak_labels: Literal["soft", "union"] = "soft"
    """union, as published: a mixed weak clip has every class of both; soft mixes them like the others."""


class LossSettings(Settings):
    """Weights of the parts of the loss."""

    strong: float = Field(1.0, ge=0)
    """Binary cross-entropy of frames, over strong and soft labels."""
    weak: float = Field(1.0, ge=0)
    """Binary cross-entropy of clips, over weak labels."""
    consistency: float = Field(2.0, ge=0)
    """Mean squared difference between student and teacher, after its ramp."""


class TeacherSettings(Settings):
    """Mean teacher: a moving average of the student that sees the same batch, and that the student is to agree with."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Of the average, per step; less at the start, where it is the plain mean."""
    average_statistics: bool = True
    """Average the batch norms' statistics too; as published, only parameters, and the teacher keeps its own."""
    ramp_epochs: int = Field(50, ge=0)
    """The consistency loss rises over this many epochs."""
    maestro: bool = False
    """Whether MAESTRO clips count in the consistency loss."""


class OptimSettings(Settings):
    """Adam; the learning rate rises as exp(-5 (1 - t)^2) and falls as a quarter of a cosine, step by step."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_epochs: int = Field(50, ge=0)
    """Length of the rise."""
    decay_from_epoch: int | None = Field(None, ge=0)
    """Where the fall to 0 at the last epoch begins; null keeps the peak."""
    first_step: Literal["ramp", "peak"] = "ramp"
    """Rate of the very first step: that of the ramp, or the peak, as published."""


class PostProcessing(FilterSettings):
    """From raw scores to those that are handed in."""

    network: Literal["teacher", "student"] = "teacher"
    """Whose scores are tested and handed in."""


class Task4Settings(SystemSettings):
    """One training of a sound event detector on DESED and MAESTRO Real."""

    data: DataSettings
    embeddings: Literal["none", "cached", "live"] = "none"
    """cached: worked out once per clip and kept in half precision; live: in each step."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    front_end: FrontEndSettings = FrontEndSettings()
    model: ModelSettings = ModelSettings()
    mixup: MixupSettings | None = MixupSettings()
    """Null does not mix."""
    loss: LossSettings = LossSettings()
    teacher: TeacherSettings | None = TeacherSettings()
    """Null trains on labels alone."""
    optim: OptimSettings = OptimSettings()
    validation: ValidationSettings = ValidationSettings()
    postprocessing: PostProcessing = PostProcessing()
    trainer: TrainerSettings

    @property
    def cached_embedding(self) -> EmbeddingSettings | None:
        """The model of the cached embeddings; None without."""
        return self.embedding if self.embeddings == "cached" else None

    @property
    def network(self) -> str:
        """The network that is tested and submitted."""
        return "student" if self.teacher is None else self.postprocessing.network

    @model_validator(mode="after")
    def _fits_together(self) -> "Task4Settings":
        self.model.refuse_other_sizes(self.front_end.n_mels, "model")
        kinds = {"maestro_train": "soft", "weak": "weak", "unlabeled": "none"}
        for number, group in enumerate(self.data.batch, start=1):
            if len({kinds.get(name, "strong") for name in group.sets}) > 1:
                raise ValueError(f"group {number} of data.batch mixes sets with different kinds of labels")
        return self

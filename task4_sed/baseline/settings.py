"""Settings of the baseline, the schema of its YAML files. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from common.settings import Field, Settings, TrainerSettings
from task4_sed.settings import (
    TRAINING_SETS,
    AverageSettings,
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
    """Sets to draw its clips from, jointly; they must have the same kind of labels."""
    clips: int = Field(ge=1)
    """Number of clips in each batch."""


class DataSettings(SourceSettings):
    """Place of the clips, and composition of a batch."""

    root: Path = Path("data/dcase/dataset")
    """Root of the tree of the challenge; of own data the folder of their windows, below `store`."""
    table: Path | None = None
    """Own data in place of the challenge's: a table with filename, onset, offset, label and, optionally, split."""
    audio: Path | None = None
    """Folder of the recordings that `table` names; null is the folder of the table."""
    name: str | None = None
    """Name of the own data; null takes the name of the folder of `table`."""
    store: Path = Path("data/own")
    """Folder in which the windows of own recordings are kept."""
    batch: list[GroupSettings] = Field(min_length=1)
    """Groups of each batch, in order. An epoch ends with the group that has the fewest batches."""


class MixupSettings(Settings):
    """Mixup of mel magnitudes within the weak, the strong and the MAESTRO clips of a batch."""

    probability: float = Field(0.5, ge=0, le=1)
    """Probability of mixing a batch."""
    alpha: float = Field(0.2, gt=0)
    """One weight for all clips of a kind, from Beta(alpha, alpha)."""
    draws: Literal["consistent", "official"] = "consistent"
    """official: own weight and partners for the embeddings, so features and embeddings of a clip are other mixtures,
    and labels are mixed twice."""
    weak_labels: Literal["soft", "union"] = "soft"
    """soft, as published in 2023: mixed like other labels; union, as published in 2024: every class of both clips."""


class LossSettings(Settings):
    """Weights of the parts of the loss."""

    strong: float = Field(1.0, ge=0)
    """Binary cross-entropy of frames, over strong and soft labels."""
    weak: float = Field(1.0, ge=0)
    """Binary cross-entropy of clips, over weak labels."""
    consistency: float = Field(2.0, ge=0)
    """Mean squared difference between student and teacher, after its ramp."""


class TeacherSettings(AverageSettings):
    """Mean teacher, which scores the same batch for the consistency loss."""

    ramp_epochs: int = Field(50, ge=0)
    """Epochs over which the consistency loss rises."""
    maestro: bool = False
    """Whether MAESTRO clips count in the consistency loss."""


class OptimSettings(Settings):
    """Adam; the learning rate rises as exp(-5 (1 - t)^2) and falls as a quarter of a cosine, step by step."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_epochs: int = Field(50, ge=0)
    """Length of the rise."""
    decay_from_epoch: int | None = Field(None, ge=0)
    """Epoch in which the fall to 0 at the last epoch starts; null keeps the peak."""
    first_step: Literal["ramp", "peak"] = "ramp"
    """Rate of the first step: start of the ramp, or the peak, as published."""


class PostProcessing(FilterSettings):
    """Post-processing of scores."""

    network: Literal["teacher", "student"] = "teacher"
    """The network that is tested and submitted."""


class Task4Settings(SystemSettings):
    """One training of a sound event detector on DESED and MAESTRO Real."""

    data: DataSettings
    embeddings: Literal["none", "cached", "live"] = "none"
    """cached: computed once per clip, in half precision; live: computed in each step."""
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
    def system(self) -> str:
        """Name of the recipe: baseline, or own_data."""
        return "own_data" if self.own_data else "baseline"

    @property
    def own_data(self) -> str:
        """Name of the data set where it is one of the user's; empty for the challenge's."""
        data = self.data
        return "" if data.table is None else data.name or data.table.resolve().parent.name or data.table.stem

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
            if "own_train" in group.sets and self.data.table is None:
                raise ValueError("data.batch names own_train, the recordings of a table; give --data.table")
        return self

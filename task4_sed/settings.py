"""Settings of Task 4: what a YAML file in configs/ may say. No torch here."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.settings.trainer import MachineSettings, TrainerSettings
from task4_sed.labels import POOLING, LabelSettings

TRAINING_SETS = Literal["maestro_train", "synthetic_train", "strong", "external_strong", "weak", "unlabeled"]


class GroupSettings(Settings):
    """A part of every training batch."""

    sets: list[TRAINING_SETS] = Field(min_length=1)
    """Where its clips are drawn from, together; sets of one group must have the same kind of labels."""
    clips: int = Field(ge=1)
    """How many there are in each batch."""


class SourceSettings(Settings):
    """Where the clips are, and how they are read."""

    root: Path
    """Folder that the official recipe calls data/dcase/dataset."""
    allow_missing: bool = False
    """Go on where audio of listed clips is missing; scores then say that they are not comparable."""
    packed: bool = True
    """Read packed stores at 16 kHz (made when absent) instead of one file per clip."""
    num_workers: int = Field(0, ge=0)
    """Processes that put batches together; with packed stores none is needed."""
    scoring_batch: int = Field(24, ge=1)
    """Clips that are scored at once."""


class DataSettings(SourceSettings):
    """Where the clips are, and how a batch is put together."""

    batch: list[GroupSettings] = Field(min_length=1)
    """Groups of each batch, in order. An epoch ends with the group that has the fewest batches."""


class EmbeddingSettings(Settings):
    """Frames of a frozen model that the network reads beside the spectrogram."""

    model: str = "beats"
    """A frame model that `python -m common models` lists, or one of its released weights."""
    weights: Path | None = None
    """File of weights; null takes the registered ones and downloads them where they are absent."""
    untrained: bool = False
    """Random weights, to try the way without a download."""
    options: dict[str, Any] = {}
    """Options of the model, such as a smaller depth with `untrained`."""
    dim: int = Field(768, ge=1)
    """Width of its frames."""
    folder: Path | None = None
    """Where embeddings are kept; null is the folder embeddings below data.root."""
    batch: int = Field(8, ge=1)
    """Clips that are embedded at once."""


class FrontEndSettings(Settings):
    """Mel spectrogram at 16 kHz with a hop of 16 ms, scaled to -1..1 in each clip."""

    n_mels: int = Field(128, ge=1)
    """Mel bands, 0 to 8 kHz."""


class ModelSettings(Settings):
    """The network."""

    name: str = "desed_crnn_2024"
    """A CRNN that `python -m common models` lists."""
    filters: list[int] = [16, 32, 64, 128, 128, 128, 128]
    """Channels of the convolution blocks."""
    pooling: list[tuple[int, int]] = [(2, 2), (2, 2), (1, 2), (1, 2), (1, 2), (1, 2), (1, 2)]
    """Time and mels that each block averages; 4 in time in all, and mels down to 1."""
    gate: Literal["glu", "cg"] = "glu"
    """Gate of the blocks: the baseline's, or context gating (winner of 2024)."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """Of the batch norms, in torch's sense; the published 0.99 keeps little more than the last batch."""
    rnn_dim: int = Field(192, ge=1)
    """GRU cells of one direction."""
    num_rnn_layers: int = Field(2, ge=1)
    """Recurrent layers."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """After each block, before the fusion with embeddings and before the heads."""
    aggregation: Literal["adaptive", "nearest", "exact"] = "adaptive"
    """How embeddings come to the frames; see `common.models.crnn.Crnn`."""
    dropstep: float = Field(0.3, ge=0, lt=1)
    """Largest share of the frames that time masking takes from spectrogram features or embeddings."""
    dropstep_frames: int = Field(16, ge=0)
    """Most frames that it takes."""

    def refuse_other_sizes(self, n_mels: int, group: str) -> None:
        """Demand pooling that leaves 156 frames and one mel; `group` is where these settings stand."""
        pooled = [math.prod(pool[axis] for pool in self.pooling) for axis in (0, 1)]
        if len(self.pooling) != len(self.filters) or pooled != [POOLING, n_mels]:
            raise ValueError(
                f"{group}.pooling needs one entry per block ({len(self.filters)}), and {POOLING} in time and "
                f"{n_mels} in mels all together; it has {len(self.pooling)}, {pooled[0]} and {pooled[1]}"
            )


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


class ValidationSettings(Settings):
    """Clips held out of training choose the best epoch: the sum of weak macro F1, intersection F1 and segment F1."""

    weak: bool = True
    """10 % of the weak clips are held out."""
    synthetic: bool = True
    """The synthetic validation set is scored."""
    maestro: bool = True
    """10 % of the MAESTRO recordings that are trained on are held out."""


class BoxTuning(Settings):
    """Event boxes (cSEBBs) for DESED classes, tuned class by class on the validation set; means per second for MAESTRO.

    Figures on the validation set itself are cross-validated.
    """

    step_filter_lengths: list[float] = [0.32, 0.48, 0.64]
    """Seconds."""
    merge_thresholds_abs: list[float] = [0.15, 0.2, 0.3]
    """Differences of scores."""
    merge_thresholds_rel: list[float] = [1.5, 2.0, 3.0]
    """Ratios of scores."""
    folds: int = Field(5, ge=2)
    """Parts of the validation set for its cross-validated figure."""


class FilterSettings(Settings):
    """From raw scores to detections."""

    median_frames: dict[str, int] | int = 7
    """Median filter in frames of 64 ms: one length, or one per class."""
    boxes: BoxTuning | None = None
    """Event boxes in place of median filters; null does not use them."""


class PostProcessing(FilterSettings):
    """From raw scores to those that are handed in."""

    network: Literal["teacher", "student"] = "teacher"
    """Whose scores are tested and handed in."""


class SystemSettings(Settings):
    """What every system has, whatever its recipe."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} in it stands for its value."""
    runs: Path = Path("runs/task4_sed")
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, order of clips, augmentation."""
    data: SourceSettings
    labels: LabelSettings = LabelSettings()
    postprocessing: FilterSettings = FilterSettings()
    trainer: MachineSettings = MachineSettings()

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / self.name.replace("{seed}", str(self.seed))

    @property
    def network(self) -> str:
        """Whose scores are tested."""
        raise NotImplementedError

    @property
    def training_stages(self) -> list[str]:
        """Folders of all that is trained."""
        return ["train"]

    @classmethod
    def for_data(cls, data: Mapping[str, Any]) -> "type[Settings]":
        """The schema of a file: its line `recipe: two_iterations` tells the winner's recipe from a single training."""
        if data.get("recipe") == "two_iterations":
            from task4_sed.iterations.settings import TwoIterations

            return TwoIterations
        return cls

    @model_validator(mode="after")
    def _every_class_has_a_median(self) -> "SystemSettings":
        medians = self.postprocessing.median_frames
        if isinstance(medians, dict):
            absent = [name for name in self.labels.classes if name not in medians]
            if absent:
                raise ValueError(f"postprocessing.median_frames has no length for {absent[0]}")
        return self


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
    def network(self) -> str:
        """Whose scores are tested."""
        return "student" if self.teacher is None else self.postprocessing.network

    @model_validator(mode="after")
    def _fits_together(self) -> "Task4Settings":
        self.model.refuse_other_sizes(self.front_end.n_mels, "model")
        kinds = {"maestro_train": "soft", "weak": "weak", "unlabeled": "none"}
        for number, group in enumerate(self.data.batch, start=1):
            if len({kinds.get(name, "strong") for name in group.sets}) > 1:
                raise ValueError(f"group {number} of data.batch mixes sets with different kinds of labels")
        return self

"""Settings that the systems of Task 4 share. No torch here."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, MachineSettings, RunSettings, Settings
from task4_sed.labels import POOLING, LabelSettings

TRAINING_SETS = Literal[
    "maestro_train", "synthetic_train", "strong", "external_strong", "weak", "unlabeled", "own_train"
]
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))
"""Settings of the trainer that decide the result of a training."""


class SourceSettings(Settings):
    """Location and reading of the clips."""

    root: Path
    """Root of the tree, data/dcase/dataset in the official recipe."""
    allow_missing: bool = False
    """Continue if audio of listed clips is missing; scores then say that they are not comparable."""
    packed: bool = True
    """Read packed stores at 16 kHz (made if missing) instead of one file per clip."""
    num_workers: int = Field(0, ge=0)
    """Worker processes that assemble batches; packed stores need none."""
    scoring_batch: int = Field(24, ge=1)
    """Batch size for scoring."""
    inference_precision: Literal["float32", "bf16"] = "float32"
    """Arithmetic of networks that score clips or compute cached embeddings; bf16 is quicker on GPUs and on CPUs with
    AMX. Front ends and files stay as they are, and so do finished stages."""


class WavmixSettings(Settings):
    """Two clips of a set, each without its mean, are added as waveforms; labels are mixed with the same weight."""

    probability: float = Field(0.5, ge=0, le=1)
    """Probability of mixing a clip."""
    alpha: float = Field(0.2, gt=0)
    """The clip's own weight is the larger of b and 1 - b, b from Beta(alpha, alpha)."""


class MixupSettings(Settings):
    """Spectrograms of a batch are mixed with each other; labels are mixed with the same weights."""

    probability: float = Field(0.5, ge=0, le=1)
    """Probability of mixing a batch."""
    alpha: float = Field(0.2, gt=0)
    """Weights as for wavmix, one per clip."""


class MixStyleSettings(Settings):
    """Mixes mean and deviation of each mel band over time with another clip; labels stay."""

    probability: float = Field(0.5, ge=0, le=1)
    """Probability of mixing a batch."""
    alpha: float = Field(0.3, gt=0)
    """Weights as for wavmix, one per clip."""


class TimeMaskSettings(Settings):
    """One stretch of frames, the same for all clips of a batch, becomes 0 in features and labels."""

    smallest: float = Field(0.05, ge=0, le=1)
    """Shortest stretch, as a share of the frames."""
    largest: float = Field(0.3, ge=0, le=1)
    """Stretches are shorter than this share of the frames; 0 masks nothing."""
    pseudo_labels: Literal["kept", "masked"]
    """Pseudo-labels under the mask; kept, as published: the student learns to hear what is covered."""


class FilterAugmentSettings(Settings):
    """A random equaliser: gains at the borders of a few bands, straight lines in decibels between them."""

    probability: float = Field(0.8, ge=0, le=1)
    """Probability of filtering a batch."""
    bands: tuple[int, int] = (3, 5)
    """Fewest and most bands."""
    min_width: int = Field(6, ge=1)
    """Mel bins of the narrowest band."""
    decibels: float = Field(6.0, ge=0)
    """Gains are uniform in plus or minus this, drawn for each clip."""
    on_log_mels: Literal["multiply", "add", "kept"]
    """Logarithmic mels. multiply, as published: times 10^(dB / 20), as if they were magnitudes; add: a filter, plus so
    many dB; kept: they stay as they are, and only magnitudes are filtered."""


class FrequencyWarpSettings(Settings):
    """A part of the mel axis, the same for a group of clips, is stretched over all of it."""

    probability: float = Field(0.5, ge=0, le=1)
    """Probability of warping a batch."""
    smallest: float = Field(0.6, gt=0, le=1)
    """Smallest part, as a share of the mel bands."""


class AugmentSettings(Settings):
    """Augmentation of training clips, each step with random numbers of its own; null leaves a step out."""

    wavmix: WavmixSettings | None = None
    frame_shift: float = Field(0.0, ge=0, le=1)
    """Deviation of a circular shift in time, labels included, as a share of the frames."""
    mixup: MixupSettings | None = None
    mixstyle: MixStyleSettings | None = None
    time_mask: TimeMaskSettings | None = None
    filter: FilterAugmentSettings | None = None
    frequency_warp: FrequencyWarpSettings | None = None


class AverageSettings(Settings):
    """The teacher, a moving average of the student."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Decay per step; less at the start, where the average is the plain mean."""
    average_statistics: bool = True
    """Average the statistics of batch norms too; as published, only parameters: the teacher has its own statistics."""


class FrameModelSettings(Settings):
    """A model of the registry that gives frames."""

    model: str
    """A frame model that `python -m common models` lists, or one of its released weights."""
    weights: Path | None = None
    """File of weights; null uses the registered ones and downloads missing files."""
    untrained: bool = False
    """Use random weights, to try the recipe without a download."""
    options: dict[str, Any] = {}
    """Options of the model, such as a smaller depth with `untrained`."""


class EmbeddingSettings(FrameModelSettings):
    """Frames of a frozen model, the network's second input."""

    model: str = "beats"
    """A frame model that `python -m common models` lists, or one of its released weights."""
    dim: int = Field(768, ge=1)
    """Width of its frames."""
    folder: Path | None = None
    """Folder of the cached embeddings; null is data.root/embeddings."""
    batch: int = Field(8, ge=1)
    """Batch size for embedding."""


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
    """Gate of the blocks: glu (baseline), or context gating (winner of 2024)."""
    norm_momentum: float = Field(0.1, gt=0, le=1)
    """Momentum of the batch norms, as in torch; the published 0.99 keeps little more than the last batch."""
    rnn_dim: int = Field(192, ge=1)
    """GRU cells of one direction."""
    num_rnn_layers: int = Field(2, ge=1)
    """Recurrent layers."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """After each block, before the fusion with embeddings and before the heads."""
    aggregation: Literal["adaptive", "nearest", "exact"] = "adaptive"
    """Resampling of embeddings to frames, see `common.models.crnn.Crnn`."""
    dropstep: float = Field(0.3, ge=0, lt=1)
    """Largest share of the frames that time masking hides in spectrogram features or embeddings."""
    dropstep_frames: int = Field(16, ge=0)
    """Largest number of frames that it hides."""

    def refuse_other_sizes(self, n_mels: int, group: str) -> None:
        """Require pooling to 156 frames and one mel; `group` is the name of these settings."""
        pooled = [math.prod(pool[axis] for pool in self.pooling) for axis in (0, 1)]
        if len(self.pooling) != len(self.filters) or pooled != [POOLING, n_mels]:
            raise ValueError(
                f"{group}.pooling needs one entry per block ({len(self.filters)}), and {POOLING} in time and "
                f"{n_mels} in mels all together; it has {len(self.pooling)}, {pooled[0]} and {pooled[1]}"
            )


class ValidationSettings(Settings):
    """Clips used to choose the best epoch, by the sum of weak macro F1, intersection F1 and segment F1."""

    weak: bool = True
    """Hold out 10 % of the weak clips."""
    synthetic: bool = True
    """Score the synthetic validation set."""
    maestro: bool = True
    """Hold out 10 % of the MAESTRO training recordings."""

    @property
    def any(self) -> bool:
        """Whether the best epoch is chosen; own data then use their validation part."""
        return self.weak or self.synthetic or self.maestro


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
    """Post-processing of raw scores."""

    median_frames: dict[str, int] | int = 7
    """Median filter in frames of 64 ms: one length, or one per class."""
    boxes: BoxTuning | None = None
    """Use event boxes in place of median filters; null uses median filters."""


class SystemSettings(RunSettings):
    """Settings of every system, whatever its recipe."""

    runs: Path = Path("runs/task4_sed")
    """Folder of the runs."""
    data: SourceSettings
    labels: LabelSettings = LabelSettings()
    postprocessing: FilterSettings = FilterSettings()
    trainer: MachineSettings = MachineSettings()

    @property
    def system(self) -> str:
        """Name of the recipe: baseline or two_iterations."""
        return "baseline"

    @property
    def own_data(self) -> str:
        """Name of the data set where it is one of the user's; empty for the challenge's."""
        return ""

    @property
    def network(self) -> str:
        """Name of the submitted network, one of the tested ones."""
        raise NotImplementedError

    @property
    def training_stages(self) -> list[str]:
        """Folders of all trainings."""
        return ["train"]

    @model_validator(mode="after")
    def _every_class_has_a_median(self) -> "SystemSettings":
        medians = self.postprocessing.median_frames
        if isinstance(medians, dict):
            absent = [name for name in self.labels.classes if name not in medians]
            if absent:
                raise ValueError(f"postprocessing.median_frames has no length for {absent[0]}")
        return self


def validate_each_epoch(settings: Any) -> Any:
    """The settings of `--fast_check`."""
    return settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"validate_every": 1})})

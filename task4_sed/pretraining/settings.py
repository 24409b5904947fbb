"""Settings of the pre-training on AudioSet strong and of its downstream task. No torch here."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.settings.trainer import TrainerSettings


class ModelSettings(Settings):
    """The network: a frame model with a linear layer for frames."""

    name: str
    """A frame model that `python -m common models` lists: atst_frame.weak starts from those weights."""
    weights: Path | None = None
    """File to start from; null takes the registered weights of `name` and downloads them where they are absent."""
    untrained: bool = False
    """Start from random weights."""
    options: dict[str, Any] = {}
    """Options of the network, such as {seq_model_type: rnn} for the recurrent layers of the teachers."""
    front_end: dict[str, Any] = {}
    """Options of the front end that differ from the registered ones."""
    head_bias: float | None = None
    """Where the bias of the frame head starts: -6 is a probability of 0.2 %; null is near 0, as published, and costs a
    short training most of its steps."""


class SamplerSettings(Settings):
    """Which clips an epoch goes through."""

    weights: Literal["uniform", "temporal"] = "uniform"
    """temporal: sum over classes of active frames * 1000 / (offset + all active frames of the class)."""
    replacement: bool = False
    """Draw clips again and again. Without it, weights only decide the order and the few clips that are left out."""
    draws: int | None = Field(100_000, ge=1)
    """Clips in an epoch; null takes as many as there are."""
    offset: float = Field(30.0, ge=0)
    """Frames added to the count of each class, which tames the weights of rare ones."""


class WavmixSettings(Settings):
    """Two clips, each without its mean, are added as waveforms; the partner may be any clip of the data set."""

    probability: float = Field(0.8, ge=0, le=1)
    """Of mixing a clip."""
    alpha: float = Field(2.0, gt=0)
    """The larger of l and 1 - l is the clip's weight, l from Beta(alpha, alpha)."""


class MixupSettings(Settings):
    """Spectrograms of a batch are mixed with each other, labels likewise."""

    probability: float = Field(0.3, ge=0, le=1)
    """Of mixing a batch."""
    alpha: float = Field(0.2, gt=0)
    """The larger of c and 1 - c is a clip's weight, c from Beta(alpha, alpha)."""


class MixStyleSettings(Settings):
    """Mean and deviation of each mel band over time are mixed with those of another clip; labels stay."""

    probability: float = Field(0.3, ge=0, le=1)
    """Of mixing a batch."""
    alpha: float = Field(0.4, gt=0)
    """The larger of l and 1 - l is a clip's weight, l from Beta(alpha, alpha)."""


class TimeMaskSettings(Settings):
    """One stretch of frames of the whole batch is set to 0, its labels too."""

    min_share: float = Field(0.05, ge=0, le=1)
    """Of the frames, at least."""
    max_share: float = Field(0.0, ge=0, le=1)
    """Of the frames, less than this; 0 masks nothing."""
    distilled: Literal["kept", "masked"] = "masked"
    """Targets of the teachers under the mask; kept, as published: the student is to hear what is covered."""


class FilterAugmentSettings(Settings):
    """A random equaliser: gains at the borders of a few bands, straight lines between them."""

    probability: float = Field(0.8, ge=0, le=1)
    """Of filtering a batch."""
    min_bands: int = Field(3, ge=2)
    """Fewest bands."""
    max_bands: int = Field(5, ge=2)
    """Most bands."""
    min_width: int = Field(6, ge=1)
    """Of a band, in mel bands."""
    max_db: float = Field(6.0, ge=0)
    """Gains are uniform in -max_db..max_db, drawn for each clip."""
    scale: Literal["multiply", "decibel"] = "decibel"
    """multiply, as published: the normalised logarithm is multiplied by 10^(dB / 20). decibel: a filter, so many dB."""


class FrequencyWarpSettings(Settings):
    """A part of the mel axis, the same for the batch, is stretched to the full height."""

    probability: float = Field(0.8, ge=0, le=1)
    """Of warping a batch."""
    smallest: float = Field(0.6, gt=0, le=1)
    """Share of the mel bands that is kept at least."""


class AugmentationSettings(Settings):
    """In this order, each with random numbers of its own; those that are null are left out."""

    wavmix: WavmixSettings | None = WavmixSettings()
    frame_shift: float = Field(0.125, ge=0, le=1)
    """Deviation of a circular shift in time, as a share of the frames."""
    mixup: MixupSettings | None = MixupSettings()
    mixstyle: MixStyleSettings | None = MixStyleSettings()
    time_mask: TimeMaskSettings | None = TimeMaskSettings()
    filter_augment: FilterAugmentSettings | None = FilterAugmentSettings()
    frequency_warp: FrequencyWarpSettings | None = FrequencyWarpSettings()


class OptimSettings(Settings):
    """Adam or AdamW, linear warm-up, then half a cosine down to 0 at the last step."""

    algorithm: Literal["adam", "adamw"] = "adam"
    lr: float = Field(gt=0)
    """Peak learning rate."""
    sequence_lr: float | None = Field(None, gt=0)
    """Peak learning rate of recurrent layers on top; null takes lr."""
    warmup_steps: int = Field(20_000, ge=0)
    """Steps of the rise; where the training is shorter, it ends below the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Of weights with two or more dimensions; needs adamw."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """The block that is i-th from the top learns with lr * layer_decay^i; heads with lr."""
    frozen: bool = False
    """Train only what is above the pre-trained blocks."""

    @model_validator(mode="after")
    def _decays_with_adamw(self) -> "OptimSettings":
        if self.weight_decay and self.algorithm == "adam":
            raise ValueError("weight_decay needs algorithm adamw")
        return self


class StrongDataSettings(Settings):
    """AudioSet strong: its tables, and its clips as mp3 in HDF5."""

    root: Path
    """Folder that the files are in."""
    train_audio: str = "*train_segments_mp3.hdf"
    """Pattern of the HDF5 files with the training clips; the balanced and the unbalanced one of AudioSet."""
    eval_audio: str = "*eval_segments_mp3.hdf"
    """Pattern of the HDF5 files with the evaluation clips."""
    train_table: Path = Path("audioset_train_strong.tsv")
    """Events of the training clips."""
    eval_table: Path = Path("audioset_eval_strong.tsv")
    """Events of the evaluation clips."""
    eval_durations: Path = Path("eval_durations.csv")
    """Seconds of the evaluation clips."""
    allow_missing: bool = False
    """Go on where listed clips have no audio; scores then say that they are not comparable."""
    long_clips: Literal["start", "random"] = "start"
    """Of a training clip beyond 10 s: its first 10 s, or a random part while its labels stay where they are."""
    batch_size: int = Field(256, ge=1)
    """Clips of a batch, over all processes together."""
    num_workers: int = Field(0, ge=0)
    """Processes that decode, for each GPU."""
    scoring_batch: int = Field(64, ge=1)
    """Clips that are scored at once."""


class DistillationSettings(Settings):
    """Learning from the frame logits of an ensemble: give its file, or the finished runs that form it."""

    weight: float = Field(0.9, ge=0, le=1)
    """Of the loss against the teachers; the labels get the rest."""
    targets: Path | None = None
    """HDF5 file with `filenames` and `strong_logits` (clips, 447, 250), float16."""
    teachers: list[Path] = []
    """Run folders; the mean of their logits is written before the training."""

    @model_validator(mode="after")
    def _one_source(self) -> "DistillationSettings":
        if (self.targets is None) == (not self.teachers):
            raise ValueError("give either targets (a file) or teachers (run folders)")
        return self


class EvaluationSettings(Settings):
    """PSDS1 on the evaluation clips: over the classes that have clips in both parts, without the variance penalty."""

    median_frames: int = Field(9, ge=1)
    """Median filter over the logits, in frames of 40 ms, odd."""
    draws: int = Field(1000, ge=0)
    """Resamplings of the clips behind the 95 % intervals of the final figures."""

    @model_validator(mode="after")
    def _odd(self) -> "EvaluationSettings":
        if self.median_frames % 2 == 0:
            raise ValueError(f"median_frames is {self.median_frames}; a median filter needs an odd number")
        return self


class PretrainSettings(Settings):
    """One training of a frame model on AudioSet strong: a teacher, or a student of teachers."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {model} in it stand for their values."""
    runs: Path = Path("runs/pretrain")
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, order of clips, augmentation."""
    data: StrongDataSettings
    model: ModelSettings
    sampler: SamplerSettings = SamplerSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    optim: OptimSettings
    distillation: DistillationSettings | None = None
    """Null learns from labels alone."""
    evaluation: EvaluationSettings = EvaluationSettings()
    trainer: TrainerSettings

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / run_name(self.name, self.seed, self.model.name)


class OfficeDataSettings(Settings):
    """DCASE 2016 Task 2 as HEAR hands it out: dcase2016_task2-hear2021-full."""

    root: Path
    """Folder with 16000/{train,valid,test}, labelvocabulary.csv and {train,valid,test}.json."""
    batch_size: int = Field(256, ge=1)
    """Clips of 10 s in a batch, over all processes together."""
    num_workers: int = Field(0, ge=0)
    """Processes that read clips, for each GPU."""
    scoring_batch: int = Field(32, ge=1)
    """Clips that are scored at once."""


class OfficeEventSettings(Settings):
    """From frame scores to events, as HEAR does it."""

    median_ms: float = Field(250.0, ge=0)
    """Length of the median filter."""
    min_duration_ms: float = Field(125.0, ge=0)
    """Shorter events are dropped."""
    threshold: float = 0.5
    """Above it a class is active."""
    scores: Literal["probabilities", "logits"] = "probabilities"
    """What the threshold is compared with; logits, as published: 0.5 is then a probability of 0.62."""
    borders: Literal["frames", "centres"] = "frames"
    """An event lasts from the beginning of its first frame to the end of its last one; centres, as published: from
    the centre of one to the centre of the other, one frame less."""


class OfficeSettings(Settings):
    """One fine-tuning of a frame model on DCASE 2016 Task 2."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {model} in it stand for their values."""
    runs: Path = Path("runs/dcase2016_task2")
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, crops, augmentation."""
    data: OfficeDataSettings
    model: ModelSettings
    augmentation: AugmentationSettings
    optim: OptimSettings
    events: OfficeEventSettings = OfficeEventSettings()
    trainer: TrainerSettings

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / run_name(self.name, self.seed, self.model.name)


def run_name(name: str, seed: int, model: str) -> str:
    """A run's name with the values of {seed} and {model} (without the tag of its weights)."""
    return name.replace("{seed}", str(seed)).replace("{model}", model.partition(".")[0])

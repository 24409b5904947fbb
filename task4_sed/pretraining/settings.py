"""Settings of the pre-training on AudioSet strong and of its downstream task. No torch here."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, RunSettings, Settings, TrainerSettings
from task4_sed.settings import AugmentSettings


class ModelSettings(Settings):
    """The network: a frame model with a linear layer for frames."""

    name: str
    """A frame model of `python -m common models`: atst_frame.weak starts from those weights."""
    weights: Path | None = None
    """File of initial weights; null takes the registered weights of `name`, downloaded when absent."""
    untrained: bool = False
    """Start from random weights."""
    options: dict[str, Any] = {}
    """Options of the network, such as {seq_model_type: rnn} for the recurrent layers of the teachers."""
    front_end: dict[str, Any] = {}
    """Options of the front end that differ from the registered ones."""
    head_bias: float | None = None
    """Initial bias of the frame head: -6 is a probability of 0.2 %; null is near 0, as published, which costs a short
    training most of its steps."""


class SamplerSettings(Settings):
    """Clips of an epoch."""

    weights: Literal["uniform", "temporal"] = "uniform"
    """temporal: sum over classes of active frames * 1000 / (offset + all active frames of the class)."""
    replacement: bool = False
    """Clips may be drawn again. Without, weights only decide the order and the few clips left out."""
    draws: int | None = Field(100_000, ge=1)
    """Clips of an epoch; null takes all."""
    offset: float = Field(30.0, ge=0)
    """Frames added to the count of each class, which limits the weights of rare ones."""


class OptimSettings(Settings):
    """Adam or AdamW, linear warm-up, then half a cosine down to 0 at the last step."""

    algorithm: Literal["adam", "adamw"] = "adam"
    lr: float = Field(gt=0)
    """Peak learning rate."""
    sequence_lr: float | None = Field(None, gt=0)
    """Peak learning rate of recurrent layers on top; null takes lr."""
    warmup_steps: int = Field(20_000, ge=0)
    """Steps of the warm-up; a shorter training ends below the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Needs adamw."""
    decayed: Literal["matrices", "all"] = "matrices"
    """Parameters that decay: matrices (two or more dimensions); all, as published, biases and norms included."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Block i from the top has the rate lr * layer_decay^i, the heads have lr."""
    frozen: bool = False
    """Train only the heads; recurrent layers on top stay random, as published."""

    @model_validator(mode="after")
    def _decays_with_adamw(self) -> "OptimSettings":
        if self.weight_decay and self.algorithm == "adam":
            raise ValueError("weight_decay needs algorithm adamw")
        return self


class StrongDataSettings(Settings):
    """AudioSet strong: its tables, and its clips as mp3 in HDF5."""

    root: Path
    """Folder of the files."""
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
    """Continue without listed clips that have no audio; scores then say that they are not comparable."""
    long_clips: Literal["start", "random"] = "start"
    """Part of a training clip over 10 s: its first 10 s, or a random part with unmoved labels, as published."""
    batch_size: int = Field(256, ge=1)
    """Clips of a batch, over all processes together."""
    num_workers: int = Field(0, ge=0)
    """Processes that decode, for each GPU."""
    scoring_batch: int = Field(64, ge=1)
    """Clips that are scored at once."""


class DistillationSettings(Settings):
    """Distillation of the frame logits of an ensemble, from a file or from finished runs."""

    weight: float = Field(0.9, ge=0, le=1)
    """Weight of the loss against the teachers; the labels get the rest."""
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
    """PSDS1 on the evaluation clips, over the classes with clips in both parts, without variance penalty."""

    median_frames: int = Field(9, ge=1)
    """Median filter over the logits, in frames of 40 ms, odd."""
    draws: int = Field(1000, ge=0)
    """Resamplings of the clips behind the 95 % intervals of the final figures."""

    @model_validator(mode="after")
    def _odd(self) -> "EvaluationSettings":
        if self.median_frames % 2 == 0:
            raise ValueError(f"median_frames is {self.median_frames}; a median filter needs an odd number")
        return self


class FrameModelSettings(RunSettings):
    """One training of a frame model."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {model} in it stand for their values."""
    model: ModelSettings
    augmentation: AugmentSettings = AugmentSettings()
    optim: OptimSettings
    trainer: TrainerSettings

    def value_in_name(self, field: str) -> Any:
        """`{model}` is the name of the model without the tag of its weights."""
        return self.model.name.partition(".")[0] if field == "model" else super().value_in_name(field)


class PretrainSettings(FrameModelSettings):
    """One training of a frame model on AudioSet strong: a teacher, or a student of teachers."""

    runs: Path = Path("runs/pretrain")
    """Folder of the runs."""
    data: StrongDataSettings
    sampler: SamplerSettings = SamplerSettings()
    distillation: DistillationSettings | None = None
    """Null learns from labels alone."""
    evaluation: EvaluationSettings = EvaluationSettings()


class OfficeDataSettings(Settings):
    """DCASE 2016 Task 2 as HEAR distributes it: dcase2016_task2-hear2021-full."""

    root: Path
    """Folder with 16000/{train,valid,test}, labelvocabulary.csv and {train,valid,test}.json."""
    batch_size: int = Field(256, ge=1)
    """Clips of 10 s in a batch, over all processes together."""
    num_workers: int = Field(0, ge=0)
    """Processes that read clips, for each GPU."""
    scoring_batch: int = Field(32, ge=1)
    """Clips that are scored at once."""


class OfficeEventSettings(Settings):
    """Events from frame scores, as in HEAR."""

    median_ms: float = Field(250.0, ge=0)
    """Length of the median filter."""
    min_duration_ms: float = Field(125.0, ge=0)
    """Shorter events are dropped."""
    threshold: float = 0.5
    """A class is active above it."""
    scores: Literal["probabilities", "logits"] = "probabilities"
    """Scores that the threshold applies to; logits, as published: 0.5 is then a probability of 0.62."""
    borders: Literal["frames", "centres"] = "frames"
    """frames: an event lasts from the start of its first frame to the end of its last; centres, as published: from
    centre to centre, one frame less."""


class OfficeSettings(FrameModelSettings):
    """One fine-tuning of a frame model on DCASE 2016 Task 2."""

    runs: Path = Path("runs/dcase2016_task2")
    """Folder of the runs."""
    data: OfficeDataSettings
    events: OfficeEventSettings = OfficeEventSettings()

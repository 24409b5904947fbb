"""Settings of AudioSet training and of fine-tuning: what a YAML file in configs/ may say. No torch here.

The defaults are those of EfficientAT's ex_audioset.py, which its author names the configuration of the papers.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.settings.trainer import TrainerSettings


class LoaderSettings(Settings):
    """How clips come to the device."""

    batch_size: int = Field(120, ge=1)
    """Clips per training step and device."""
    num_workers: int = Field(0, ge=0)
    """Processes that decode; about ten keep one GPU busy with 10-s mp3."""


class FrontEndSettings(Settings):
    """Log-mel spectrogram; the rest is as the model's entry in the registry has it."""

    hop_length: int = Field(320, gt=0)
    """Samples between frames."""
    n_mels: int = Field(128, gt=0)
    """Mel bands."""
    f_min_jitter: int = Field(10, ge=0)
    """In training, the lowest frequency moves up by less than so many Hz, drawn once a batch."""
    f_max_jitter: int = Field(2000, ge=0)
    """In training, the highest frequency moves by less than half of so many Hz, drawn once a batch."""


class ModelSettings(Settings):
    """The network, and the weights that it starts from."""

    name: str = "mn10"
    """Of the registry. With released weights (mn10.im, mn10.as) it starts from them, else from random ones."""
    weights: Path | None = None
    """File to start from, such as train/weights.pt of a run; for released weights in place of a download."""
    norm_momentum: float | None = Field(None, gt=0, le=1)
    """Share of a batch in batch norm's running statistics; null keeps the network's (MN: 0.01, for long trainings)."""
    options: dict[str, Any] = {}
    """Further options of the network, such as T_max of DyMN, or s_patchout_t and s_patchout_f of PaSST."""


class AugmentSettings(Settings):
    """What happens to training clips, in this order: gain, wavmix, roll, masks, mixup."""

    gain_db: int = Field(0, ge=0)
    """Each clip becomes louder or softer by whole decibels in -gain_db .. gain_db - 1, as published."""
    wavmix_probability: float = Field(0.0, ge=0, le=1)
    """Of adding to a waveform that of another clip, any of the data set; means removed, weights from Beta(2, 2)."""
    roll: int = Field(0, ge=0)
    """Each clip is shifted in a circle by up to so many samples."""
    frequency_mask: int = Field(0, ge=0)
    """Widest band, in mel bands, that is covered in each clip; 0 covers none."""
    time_mask: int = Field(0, ge=0)
    """Longest stretch, in frames, that is covered in each clip; 0 covers none."""
    mixup_alpha: float | None = Field(0.3, gt=0)
    """Spectrograms and targets of a batch are mixed with weights from Beta(alpha, alpha); null does not."""


class SwaSettings(Settings):
    """Stochastic weight averaging: the plain mean of the weights at the beginning of some epochs.

    PaSST, helpers/swa_callback.py. The learning-rate scheduler that is made there too is never stepped: rates stay.
    """

    start: int = Field(50, ge=1)
    """The first of these epochs, counted from 1, as PaSST's code counts."""
    every: int = Field(5, ge=1)
    """Epochs from one to the next."""


class OptimSettings(Settings):
    """Optimiser; the learning rate rises exponentially, stays, and falls linearly, epoch by epoch."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam (EfficientAT), AdamW (PaSST), or SGD with momentum 0.9."""
    lr: float = Field(8e-4, gt=0)
    """Peak learning rate; it goes with the batch size."""
    weight_decay: float = Field(0.0, ge=0)
    """Of all parameters."""
    warmup: int = Field(8, ge=0)
    """Epochs of the rise."""
    down_start: int = Field(80, ge=0)
    """Epoch in which the fall begins."""
    down_length: int = Field(95, ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.01, ge=0, le=1)
    """Share of the peak rate after the fall."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Test an exponential moving average of the weights with this decay per step; null does not."""
    swa: SwaSettings | None = None
    """Test a plain mean of the weights of some epochs; null does not."""

    @model_validator(mode="after")
    def _one_average(self) -> "OptimSettings":
        if self.ema_decay is not None and self.swa is not None:
            raise ValueError("give ema_decay or swa, and null for the other")
        return self


class TaggingSettings(Settings):
    """What training on AudioSet and fine-tuning share."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} in it stands for its value."""
    runs: Path = Path("runs/audioset")
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, order of clips and augmentation."""
    loader: LoaderSettings = LoaderSettings()
    front_end: FrontEndSettings = FrontEndSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    trainer: TrainerSettings

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / self.name.replace("{seed}", str(self.seed))


class AudioSetSettings(Settings):
    """Where AudioSet is: HDF5 files of encoded clips, and class_labels_indices.csv."""

    root: Path = Path("data/audioset")
    """Folder of the files."""
    training: list[str] = ["balanced_train_segments_mp3*.hdf", "unbalanced_train_segments_mp3*.hdf"]
    """Names of HDF5 files below `root`, with * and ?."""
    test: list[str] = ["eval_segments_mp3*.hdf"]
    """Likewise, to test on."""
    watch_test: bool = True
    """Also look at the test clips during training, as published, for the log only: the last epoch is kept."""
    seconds: float = Field(10.0, gt=0)
    """Clips are cut to their first so many seconds, or padded with zeros."""


class SamplerSettings(Settings):
    """Which clips an epoch holds."""

    clips_per_epoch: int | None = Field(100_000, ge=1)
    """How many are drawn; null takes as many as there are."""
    balanced: bool = True
    """Draw clips of rare classes more often: weight = sum over its classes of 1000 / (offset + clips of the class)."""
    offset: float = Field(100.0, ge=0)
    """See `balanced`."""
    replacement: bool = False
    """Draw with replacement. Without (published), no clip comes twice in an epoch."""
    order: Literal["drawn", "shuffled"] = "shuffled"
    """Without replacement heavy clips are drawn first; `drawn` keeps that order within the epoch, as published."""


class TeacherSettings(Settings):
    """Distillation from logits that are stored by file name."""

    logits: Path
    """HDF5 file with `filenames` and `logits` (clips, classes), float16; see `audioset logits`."""
    label_weight: float = Field(0.1, ge=0, le=1)
    """Weight of the loss on the labels; the rest is the teacher's (published: 0.1, there called kd_lambda)."""
    temperature: float = Field(1.0, gt=0)
    """The teacher's probabilities are sigmoid(logits / temperature)."""
    missing: Literal["refuse", "labels_only"] = "refuse"
    """What to do when clips have no teacher logits; labels_only (published) trains them on their labels alone."""


class PretrainSettings(TaggingSettings):
    """One training of a tagging network on AudioSet, with or without a teacher."""

    data: AudioSetSettings = AudioSetSettings()
    sampler: SamplerSettings = SamplerSettings()
    teacher: TeacherSettings | None = None
    """Null trains on the labels alone."""


class TableSettings(Settings):
    """An own table of clips."""

    file: Path
    """Comma- or tab-separated (.tsv) table below `data.root`, one row per clip."""
    audio: Path = Path("audio")
    """Folder below `data.root` that file names are relative to."""
    filename: str = "filename"
    """Column of file names."""
    label: str = "label"
    """Column of labels."""
    separator: str | None = None
    """Between the labels of one clip, such as ";"; null where each clip has exactly one label."""
    split: str = "fold"
    """Column that says train, validation or test, or else the fold."""
    recording: str | None = None
    """Column that names the recording a clip was cut from: its clips are drawn together for the intervals."""


class FineTuneDataSettings(Settings):
    """The labelled clips to fine-tune on."""

    task: Literal["esc50", "fsd50k", "openmic", "table"] = "table"
    """A data set in its official folders, or an own table."""
    root: Path
    """Folder of the data set."""
    table: TableSettings | None = None
    """Of the task `table`."""
    folds: list[str] | None = None
    """Test only these folds; null tests each in turn."""
    clips: int | None = Field(None, ge=1)
    """Use only so many clips of each split or fold, drawn from the seed, for a quick look; null uses all."""
    seconds: float = Field(10.0, gt=0)
    """Length of training clips; a part at random of longer ones, zeros behind shorter ones."""
    test_on: Literal["beginning", "whole"] = "beginning"
    """Test on the first `seconds`, or on the whole clip in windows (one clip at a time)."""
    store: Path | None = None
    """Folder for the encoded clips (made when absent); null takes `root`/encoded."""

    @model_validator(mode="after")
    def _table_given(self) -> "FineTuneDataSettings":
        if (self.task == "table") != (self.table is not None):
            raise ValueError("`table` belongs to the task table, which needs it")
        return self


class FineTuneSettings(TaggingSettings):
    """Fine-tuning of one network on a labelled data set, over its folds or its split."""

    data: FineTuneDataSettings

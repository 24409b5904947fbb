"""Settings of AudioSet training and of fine-tuning, the schema of the YAML files in configs/. No torch here.

Defaults as in EfficientAT's ex_audioset.py, which its author names the configuration of the papers.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, RunSettings, Settings, TrainerSettings

Objective = Literal["several_labels", "one_label"]
"""Binary cross entropy of each class, or cross entropy over all classes."""


class LoaderSettings(Settings):
    """Batches and worker processes."""

    batch_size: int = Field(120, ge=1)
    """Clips per training step and device."""
    num_workers: int = Field(0, ge=0)
    """Worker processes that decode; about ten keep one GPU busy with 10-s mp3."""


class FrontEndSettings(Settings):
    """Log-mel spectrogram; everything else is as in the model's entry in the registry."""

    hop_length: int = Field(320, gt=0)
    """Samples between frames."""
    n_mels: int = Field(128, gt=0)
    """Mel bands."""
    f_min_jitter: int = Field(10, ge=0)
    """In training, the lowest frequency moves up by less than this many Hz; one draw per batch."""
    f_max_jitter: int = Field(2000, ge=0)
    """In training, the highest frequency moves up or down by up to half of this many Hz; one draw per batch."""


class ModelSettings(Settings):
    """Network and initial weights."""

    name: str = "mn10"
    """A name of the registry. mn10.im and mn10.as start from released weights, mn10 from random ones."""
    weights: Path | None = None
    """File of initial weights, such as train/weights.pt of a run; replaces a download of released weights."""
    norm_momentum: float | None = Field(None, gt=0, le=1)
    """Share of a batch in batch norm's running statistics; null keeps the network's (MN: 0.01, for long trainings)."""
    options: dict[str, Any] = {}
    """Further options of the network, such as s_patchout_t and s_patchout_f of PaSST, or T_max of DyMN, the kernel
    temperature at the start (by default 30 from random or ImageNet weights, else 1)."""


class AugmentSettings(Settings):
    """Augmentation of training clips, in this order: gain, roll, wavmix, masks, mixup."""

    gain_db: int = Field(0, ge=0)
    """Gain of each clip, whole decibels in -gain_db .. gain_db - 1, as published."""
    roll: int = Field(0, ge=0)
    """Largest circular shift of each clip in samples."""
    wavmix_probability: float = Field(0.0, ge=0, le=1)
    """Probability of mixing a waveform with another clip of the data set; means removed, weights from Beta(2, 2)."""
    wavmix_teacher: Literal["first", "mixed"] = "first"
    """Teacher's probabilities of mixed waveforms: the first clip's (published), or mixed as well."""
    frequency_mask: int = Field(0, ge=0)
    """Widest band to cover in each clip, in mel bands; 0 covers none."""
    time_mask: int = Field(0, ge=0)
    """Longest stretch to cover in each clip, in frames; 0 covers none."""
    mixup_alpha: float | None = Field(0.3, gt=0)
    """Mixup of spectrograms and targets, weights from Beta(alpha, alpha); null turns it off."""


class SwaSettings(Settings):
    """Stochastic weight averaging: the plain mean of the weights at the start of some epochs.

    PaSST, helpers/swa_callback.py; its own learning-rate scheduler is never stepped there, and is left out here.
    """

    start: int = Field(50, ge=1)
    """First of these epochs, counted from 1 as in PaSST's code."""
    every: int = Field(5, ge=1)
    """Epochs from one to the next."""


class OptimSettings(Settings):
    """Optimiser; the learning rate rises exponentially, stays constant, and falls linearly, epoch by epoch."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam (EfficientAT), AdamW (PaSST), or SGD with momentum 0.9."""
    lr: float = Field(8e-4, gt=0)
    """Peak learning rate; scale it with the batch size."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of all parameters."""
    warmup: int = Field(8, ge=0)
    """Epochs of the rise."""
    down_start: int = Field(80, ge=0)
    """Epoch in which the fall starts."""
    down_length: int = Field(95, ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.01, ge=0, le=1)
    """Share of the peak rate after the fall."""
    schedule_epochs: int | None = Field(None, ge=1)
    """Epochs that warmup, down_start and down_length are meant for; with other trainer.epochs they are scaled. Null
    leaves them as they are."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is tested; null tests the weights."""
    swa: SwaSettings | None = None
    """Test a plain mean of the weights of some epochs; null tests the last weights."""

    @model_validator(mode="after")
    def _one_average(self) -> "OptimSettings":
        if self.ema_decay is not None and self.swa is not None:
            raise ValueError("give ema_decay or swa, and null for the other")
        return self


class TaggingSettings(RunSettings):
    """Settings that training on AudioSet and fine-tuning share."""

    runs: Path = Path("runs/audioset")
    """Folder of the runs."""
    loader: LoaderSettings = LoaderSettings()
    front_end: FrontEndSettings = FrontEndSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings = OptimSettings()
    trainer: TrainerSettings


class AudioSetSettings(Settings):
    """Location of AudioSet: HDF5 files of encoded clips, and class_labels_indices.csv."""

    root: Path = Path("data/audioset")
    """Folder of the files."""
    training: list[str] = ["balanced_train_segments_mp3*.hdf", "unbalanced_train_segments_mp3*.hdf"]
    """Names of HDF5 files below `root`, with * and ?."""
    test: list[str] = ["eval_segments_mp3*.hdf"]
    """Files to test on, likewise."""
    watch_test: bool = True
    """Log figures of the test clips during training, as published; the last epoch is kept whatever they are."""
    seconds: float = Field(10.0, gt=0)
    """Length that clips are cut or zero-padded to."""


class SamplerSettings(Settings):
    """Clips of an epoch."""

    clips_per_epoch: int | None = Field(100_000, ge=1)
    """Clips of an epoch; null takes as many as there are."""
    balanced: bool = True
    """Draw clips of rare classes more often: weight = sum over its classes of 1000 / (offset + clips of the class)."""
    offset: float = Field(100.0, ge=0)
    """Offset in the weights of `balanced`."""
    replacement: bool = False
    """Draw with replacement. Without (published), no clip comes twice in an epoch."""
    order: Literal["drawn", "shuffled"] = "shuffled"
    """Without replacement heavy clips are drawn first; `drawn` keeps that order within the epoch, as published."""


class TeacherSettings(Settings):
    """Distillation from stored logits."""

    logits: Path
    """HDF5 file with `filenames` and `logits` (clips, classes), float16; see `audioset logits`."""
    label_weight: float = Field(0.1, ge=0, le=1)
    """Weight of the loss on the labels; the rest is the teacher's (published: 0.1, there called kd_lambda)."""
    temperature: float = Field(1.0, gt=0)
    """The teacher's probabilities are sigmoid(logits / temperature)."""
    missing: Literal["refuse", "labels_only"] = "refuse"
    """Clips without teacher logits: refuse them, or train them on their labels alone (published)."""


class PretrainSettings(TaggingSettings):
    """One training of a tagging network on AudioSet, with or without a teacher."""

    data: AudioSetSettings = AudioSetSettings()
    sampler: SamplerSettings = SamplerSettings()
    teacher: TeacherSettings | None = None
    """Teacher; null trains on the labels alone."""


class TableSettings(Settings):
    """Table of your own clips."""

    file: Path
    """Comma- or tab-separated (.tsv) table below `data.root`, one row per clip."""
    audio: Path | None = None
    """Folder of the clips below `data.root`; null is `audio`, or `data.root` where there is no such folder."""
    filename: str | None = None
    """Column of file names; null takes filename, file, fname or path, whichever is there."""
    label: str | None = None
    """Column of labels; null takes label, category, class, scene_label or labels."""
    separator: str | None = None
    """Separator of the labels of one clip, such as ";"; null where each clip has exactly one label."""
    split: str | None = None
    """Column of the split (train, validation, test) or of the fold; null takes fold or split, and without these splits
    by recording."""
    recording: str | None = None
    """Column of the recording of a clip: clips of one recording are in one part, and drawn together for the intervals.
    Null takes recording, else each clip is one of its own."""


class FineTuneDataSettings(Settings):
    """Labelled clips to fine-tune on."""

    task: Literal["esc50", "fsd50k", "openmic", "table", "folder"] = "table"
    """A data set in its official folders, a table of your own, or a folder with a folder of clips for each class."""
    root: Path
    """Folder of the data set."""
    table: TableSettings | None = None
    """Table of the task `table`."""
    folds: list[str] | None = None
    """Folds to test; null tests each in turn."""
    clips: int | None = Field(None, ge=1)
    """Clips to use of each split or fold, drawn from the seed, for a quick trial; null uses all."""
    seconds: float = Field(10.0, gt=0)
    """Length of training clips: a random part of longer ones, shorter ones zero-padded."""
    test_on: Literal["beginning", "whole"] = "beginning"
    """Test on the first `seconds`, or on the whole clip in windows (one clip at a time)."""
    store: Path = Path("data/encoded")
    """Folder of the encoded clips, made when absent."""
    digest: str | None = None
    """Of clips and labels, filled in by the kit: a copy of the data elsewhere is the same data."""

    @model_validator(mode="after")
    def _table_given(self) -> "FineTuneDataSettings":
        if (self.task == "table") != (self.table is not None):
            raise ValueError("`table` belongs to the task table, which needs it")
        return self


class FineTuneSettings(TaggingSettings):
    """Fine-tuning of one network on a labelled data set, over its folds or its split."""

    data: FineTuneDataSettings

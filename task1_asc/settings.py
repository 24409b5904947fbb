"""Settings of Task 1: what a YAML file in configs/ may say. No torch here."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.settings.trainer import RunSettings, TrainerSettings


class ValidationSettings(Settings):
    """Hold a part of the training subset out, by recording location, and keep the best epoch on it."""

    share: float = Field(0.15, gt=0, lt=1)
    """About how much of each scene's clips is held out."""


class DataSettings(Settings):
    """Where the clips are and which of them are trained on."""

    root: Path
    """Folder that holds TAU-urban-acoustic-scenes-2022-mobile-development."""
    packed: bool = True
    """Read the packed store (made when absent) instead of one wav file per clip."""
    sample_rate: Literal[32000, 44100] = 32000
    """Hz of the packed store; wav files are always read at 44,100 Hz."""
    training_list: Path | None = None
    """Own list of training clips, a tab-separated file that lies within the subset; null takes the whole subset."""
    validation: ValidationSettings | None = None
    """Hold clips out and keep the best epoch; null trains on all and keeps the last epoch, as published."""


class LoaderSettings(Settings):
    """How clips come to the device."""

    batch_size: int = Field(ge=1)
    """Clips per training step."""
    num_workers: int = Field(0, ge=0)
    """Processes that read clips; with a packed store none is needed."""


class FrontEndSettings(Settings):
    """Log-mel spectrogram."""

    mel_rate: int = Field(32000, gt=0)
    """Hz that waveforms are resampled to."""
    n_fft: int = Field(4096, gt=0)
    """Points of the Fourier transform."""
    win_length: int = Field(3072, gt=0)
    """Samples of the Hann window, centred in n_fft."""
    hop_length: int = Field(500, gt=0)
    """Samples between frames."""
    n_mels: int = Field(256, gt=0)
    """Mel bands between f_min and f_max."""
    f_min: float = Field(0.0, ge=0)
    """Lowest frequency in Hz."""
    f_max: float = Field(16000.0, gt=0)
    """Highest frequency in Hz."""


class ModelSettings(Settings):
    """The network."""

    name: str = "task1_baseline"
    """A name that `python -m common models` lists and that takes the three widths below."""
    base_channels: int = Field(32, ge=1)
    """Channels of the first stage."""
    channels_multiplier: float = Field(1.8, gt=0)
    """Channels grow by this factor from stage to stage."""
    expansion_rate: float = Field(2.1, gt=0)
    """Channels within a block over channels between blocks."""


class MixStyleSettings(Settings):
    """Freq-MixStyle: clips of a batch exchange mean and deviation of their frequency bands."""

    probability: float = Field(0.4, ge=0, le=1)
    """Of mixing a batch."""
    alpha: float = Field(0.3, gt=0)
    """Weights are drawn from Beta(alpha, alpha)."""


class ImpulseResponseSettings(Settings):
    """Device impulse responses: clips are convolved with responses of microphones."""

    folder: Path
    """Every audio file in it is a response, such as those of MicIRP."""
    probability: float = Field(0.6, ge=0, le=1)
    """Of convolving a clip."""
    recording_devices: list[str] = ["a"]
    """Only clips of these devices are convolved."""
    max_duration: float | None = Field(None, gt=0)
    """Seconds that are kept of each response; null keeps all."""
    level: Literal["as_measured", "unit_energy", "keep_rms"] = "as_measured"
    """as_measured (published) makes clips about 6 dB louder; unit_energy scales the responses; keep_rms the clips."""
    delay: Literal["as_measured", "peak_at_start"] = "as_measured"
    """peak_at_start takes the responses' delay (up to 3 ms) away; published: as_measured."""


class AugmentSettings(Settings):
    """What happens to training clips, in this order: responses, gain, roll, mixup, masks on the power mel, MixStyle."""

    impulse_responses: ImpulseResponseSettings | None = None
    """Null leaves clips as their device recorded them."""
    gain_db: float = Field(0.0, ge=0)
    """Each clip becomes louder or softer by up to this many decibels."""
    roll_seconds: float = Field(0.0, ge=0, le=1)
    """Each clip is shifted in a circle by up to this long."""
    mixup_alpha: float | None = Field(None, gt=0)
    """Waveforms and targets are mixed with weights from Beta(alpha, alpha); null does not."""
    frequency_mask: int = Field(0, ge=0)
    """Widest band, in mel bands, that is silenced in each clip; 0 silences none."""
    time_mask: int = Field(0, ge=0)
    """Longest stretch, in frames, that is silenced in each clip; 0 silences none."""
    freq_mixstyle: MixStyleSettings | None = None
    """Null does not mix styles."""


class OptimSettings(Settings):
    """AdamW; the learning rate rises linearly and falls as half a cosine to 0, step by step."""

    lr: float = Field(5e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of all parameters."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps until the peak; the published way, which is half of the training on the 5 % subset."""
    warmup_share: float | None = Field(None, ge=0, lt=1)
    """Or the share of the training until the peak."""
    average_decay: float | None = Field(None, gt=0, lt=1)
    """Test an exponential moving average of the weights with this decay per step; null tests the weights."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimSettings":
        if (self.warmup_steps is None) == (self.warmup_share is None):
            raise ValueError("give warmup_steps or warmup_share, and null for the other")
        return self


class RampOptimSettings(Settings):
    """Adam; the learning rate rises exponentially, stays, and falls linearly, epoch by epoch: the way of CP-JKU."""

    lr: float = Field(gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of all parameters."""
    decay: Literal["l2", "decoupled"] = "l2"
    """l2 adds the decay to the gradient (Adam, as published); decoupled takes it off the weights (AdamW)."""
    rise_epochs: int = Field(ge=0)
    """Epochs of the rise: exp(-5 (1 - epoch / rise_epochs)^2)."""
    fall_from: int = Field(ge=0)
    """Epoch from which the rate falls."""
    fall_epochs: int = Field(ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.005, ge=0, le=1)
    """Share of the peak rate that stays after the fall."""
    average_decay: float | None = Field(None, gt=0, lt=1)
    """Test an exponential moving average of the weights with this decay per step; null tests the weights."""


AnyOptim = OptimSettings | RampOptimSettings


class TeacherSettings(Settings):
    """One teacher, or several that differ in their seed, trained on the clips that the student is trained on."""

    name: str = Field(pattern="^[a-z0-9_]+$")
    """Name of its folder in the run."""
    model: str
    """An architecture that `python -m common models` lists, such as passt_s_swa, cp_resnet_128k or cp_mobile."""
    weights: str | None = None
    """Released weights to begin with, such as passt_s_swa.as; null begins with random ones."""
    weights_file: Path | None = None
    """File of these weights; null takes the cache or a download."""
    options: dict[str, Any] = {}
    """Of the network's constructor, such as s_patchout_f: 6."""
    front_end: dict[str, Any] = {}
    """Of its front end, where they differ from the published ones."""
    count: int = Field(1, ge=1)
    """How many are trained, each with a seed of its own."""
    epochs: int = Field(ge=1)
    """How often the training clips are gone through."""
    batch_size: int = Field(ge=1)
    """Clips per training step."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the training."""
    augment: AugmentSettings = AugmentSettings()
    """What happens to its training clips; its logits are those of clips as they were recorded."""
    optim: AnyOptim
    """Optimiser and learning rate."""


class DistillationSettings(Settings):
    """The student also learns the mean logits of teachers that saw no clip outside its subset.

    loss = label_weight * CE + (1 - label_weight) * T^2 * mean over clips AND classes of p_t (log p_t - log p_s), with
    p = softmax(logits / T). The usual batch mean of the divergence is ten times as large: a weight of 0.98 here is one
    of 0.098 there, times T^2.
    """

    teachers: list[TeacherSettings] = []
    """All of them weigh the same in the mean."""
    logits: Path | None = None
    """Mean logits that another run wrote for the same subset (its logits/logits.h5), in place of teachers."""
    temperature: float = Field(2.0, gt=0)
    """T: larger ones make the probabilities flatter."""
    label_weight: float = Field(0.02, ge=0, le=1)
    """Weight of the labels' cross-entropy (lambda)."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format in which the mean logits are kept."""

    @model_validator(mode="after")
    def _one_source(self) -> "DistillationSettings":
        if bool(self.teachers) == (self.logits is not None):
            raise ValueError("give teachers, or logits that another run has written, not both")
        names = Counter(teacher.name for teacher in self.teachers)
        doubled = [name for name, count in names.items() if count > 1]
        if doubled:
            raise ValueError(f"two teachers are named {doubled[0]}; give each a name of its own")
        return self


class DeviceTuningSettings(Settings):
    """A copy of the trained network for each recording device of the subset, trained on with that device's clips.

    The part of the DCASE 2025 baseline that knows devices; clips of other devices go to the network they were copied
    from.
    """

    epochs: int = Field(50, ge=1)
    """How often a device's clips are gone through."""
    batch_size: int = Field(256, ge=1)
    """Clips per training step."""
    augment: AugmentSettings = AugmentSettings()
    """What happens to the clips."""
    optim: AnyOptim = OptimSettings(lr=5e-4, warmup_steps=200)
    """Optimiser and learning rate."""


class QuantizedTrainingSettings(Settings):
    """Train on with simulated 8-bit weights and activations, with the loss and augmentation of the network."""

    epochs: int = Field(20, ge=1)
    """How often the training clips are gone through."""
    lr: float = Field(5e-5, gt=0)
    """Learning rate at the start."""
    fall_from: int = Field(1, ge=0)
    """Epoch from which it falls."""
    fall_epochs: int = Field(16, ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.1, ge=0, le=1)
    """Share of the rate that stays after the fall."""
    frozen_epochs: int = Field(4, ge=0)
    """Last epochs, in which ranges of activations and statistics of batch norms stay as they are."""


class QuantizationSettings(Settings):
    """8-bit integers for weights (a scale per channel) and activations (a scale per layer); biases stay float32."""

    calibration_clips: int = Field(256, ge=1)
    """Training clips, as recorded, from which the ranges of activations are read; not used when training goes on."""
    training: QuantizedTrainingSettings | None = None
    """Train on with simulated 8 bit; null quantises the network as it is."""


class LimitsSettings(Settings):
    """What the network may cost at the precision in which it is handed in: int8 where it is quantised, else float16."""

    max_bytes: int = Field(128_000, ge=1)
    """Bytes of the parameters as they are stored."""
    max_macs: int = Field(30_000_000, ge=1)
    """Multiply-accumulates for one second, as the challenge counts them."""


class Task1Settings(RunSettings):
    """One training of the Task 1 network on one subset with one seed."""

    runs: Path = Path("runs/task1_asc")
    """Folder of the runs."""
    subset: Literal[5, 10, 25, 50, 100] = 25
    """Percent of the development-train split."""
    data: DataSettings
    loader: LoaderSettings
    front_end: FrontEndSettings | None = FrontEndSettings()
    """Null takes the one that the model was published with."""
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: AnyOptim
    trainer: TrainerSettings
    distillation: DistillationSettings | None = None
    """Null trains on the labels alone."""
    device_tuning: DeviceTuningSettings | None = None
    """Null leaves one network for all devices."""
    quantization: QuantizationSettings | None = None
    """Null hands the network in as float16."""
    limits: LimitsSettings | None = None
    """Refuse to train a network that is larger; null trains any."""

    @property
    def precision(self) -> Literal["int8", "float16"]:
        """In which the network is handed in."""
        return "float16" if self.quantization is None else "int8"

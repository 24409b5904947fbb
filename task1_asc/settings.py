"""Settings of Task 1, the schema of the YAML files in configs/. No torch here."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, RunSettings, Settings, TrainerSettings


class ValidationSettings(Settings):
    """Hold a part of the training subset out, by recording location, and keep the best epoch on it."""

    share: float = Field(0.15, gt=0, lt=1)
    """Approximate share of each scene's clips to hold out."""


class DataSettings(Settings):
    """Where the clips are, and which of them are used."""

    root: Path
    """Folder that holds TAU-urban-acoustic-scenes-2022-mobile-development."""
    packed: bool = True
    """Read the packed store (made when absent) instead of wav files."""
    sample_rate: Literal[32000, 44100] = 32000
    """Hz of the packed store; wav files are read at 44,100 Hz."""
    training_list: Path | None = None
    """Tab-separated list of training clips, all within the subset; null takes the whole subset."""
    validation: ValidationSettings | None = None
    """Hold clips out and keep the best epoch; null trains on all and keeps the last epoch, as published."""


class LoaderSettings(Settings):
    """Loading of clips."""

    batch_size: int = Field(ge=1)
    """Clips per training step."""
    num_workers: int = Field(0, ge=0)
    """Processes that read clips; a packed store needs none."""
    shuffle_block: int | None = Field(None, ge=1)
    """Shuffle blocks of so many neighbouring clips (32 blocks together) instead of all clips: reads stay close to each
    other, for a packed store that is larger than the memory and on a slow disk. null shuffles all clips."""


class FrontEndSettings(Settings):
    """Log-mel spectrogram."""

    mel_rate: int = Field(32000, gt=0)
    """Hz after resampling."""
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
    """A network of `python -m common models` with the three widths below."""
    base_channels: int = Field(32, ge=1)
    """Channels of the first stage."""
    channels_multiplier: float = Field(1.8, gt=0)
    """Growth of the channels from stage to stage."""
    expansion_rate: float = Field(2.1, gt=0)
    """Channels in a block relative to channels between blocks."""


class MixStyleSettings(Settings):
    """Freq-MixStyle: clips of a batch exchange the mean and deviation of their frequency bands."""

    probability: float = Field(0.4, ge=0, le=1)
    """Probability of mixing a batch."""
    alpha: float = Field(0.3, gt=0)
    """Weights are drawn from Beta(alpha, alpha)."""


class ImpulseResponseSettings(Settings):
    """Device impulse responses: convolution of clips with the responses of microphones."""

    folder: Path
    """Every audio file in it is a response, such as the files of MicIRP."""
    probability: float = Field(0.6, ge=0, le=1)
    """Probability of convolving a clip."""
    recording_devices: list[str] = ["a"]
    """Convolve clips of these devices only."""
    max_duration: float | None = Field(None, gt=0)
    """Length of the responses in seconds; null keeps all."""
    level: Literal["as_measured", "unit_energy", "keep_rms"] = "as_measured"
    """as_measured (published) makes clips about 6 dB louder; unit_energy scales the responses; keep_rms the clips."""
    delay: Literal["as_measured", "peak_at_start"] = "as_measured"
    """peak_at_start removes the delay of the responses (up to 3 ms); published: as_measured."""


class AugmentSettings(Settings):
    """Augmentation of training clips in this order: responses, gain, roll, mixup, masks on the power mel, MixStyle."""

    impulse_responses: ImpulseResponseSettings | None = None
    """Null convolves no clip."""
    gain_db: float = Field(0.0, ge=0)
    """Maximum gain or attenuation of each clip in dB."""
    roll_seconds: float = Field(0.0, ge=0, le=1)
    """Maximum circular shift of each clip."""
    mixup_alpha: float | None = Field(None, gt=0)
    """Mix waveforms and targets with weights from Beta(alpha, alpha); null does not mix."""
    frequency_mask: int = Field(0, ge=0)
    """Maximum width of the mask over mel bands; 0 for no mask."""
    time_mask: int = Field(0, ge=0)
    """Maximum width of the mask over frames; 0 for no mask."""
    freq_mixstyle: MixStyleSettings | None = None
    """Null does not mix."""


class OptimSettings(Settings):
    """AdamW with linear warm-up and cosine decay to 0, per step."""

    lr: float = Field(5e-3, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of all parameters."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps until the peak, as published; half of the training on the 5 % subset."""
    warmup_share: float | None = Field(None, ge=0, lt=1)
    """Share of the training until the peak, in place of warmup_steps."""
    average_decay: float | None = Field(None, gt=0, lt=1)
    """Test an exponential moving average of the weights with this decay per step; null tests the weights."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimSettings":
        if (self.warmup_steps is None) == (self.warmup_share is None):
            raise ValueError("give warmup_steps or warmup_share, and null for the other")
        return self


class RampOptimSettings(Settings):
    """Adam with CP-JKU's ramps per epoch: exponential rise, constant, linear fall."""

    lr: float = Field(gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of all parameters."""
    decay: Literal["l2", "decoupled"] = "l2"
    """l2 adds the decay to the gradient (Adam, as published); decoupled subtracts it from the weights (AdamW)."""
    rise_epochs: int = Field(ge=0)
    """Epochs of the rise: exp(-5 (1 - epoch / rise_epochs)^2)."""
    fall_from: int = Field(ge=0)
    """First epoch of the fall."""
    fall_epochs: int = Field(ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.005, ge=0, le=1)
    """Share of the peak rate after the fall."""
    average_decay: float | None = Field(None, gt=0, lt=1)
    """Test an exponential moving average of the weights with this decay per step; null tests the weights."""


AnyOptim = OptimSettings | RampOptimSettings


class TeacherSettings(Settings):
    """One teacher, or several with different seeds, trained on the training clips of the student."""

    name: str = Field(pattern="^[a-z0-9_]+$")
    """Name of its folder in the run."""
    model: str
    """An architecture of `python -m common models`, such as passt_s_swa, cp_resnet_128k or cp_mobile."""
    weights: str | None = None
    """Initial weights, such as passt_s_swa.as; null takes random ones."""
    weights_file: Path | None = None
    """File of these weights; null takes the cache or a download."""
    options: dict[str, Any] = {}
    """Options of the network, such as s_patchout_f: 6."""
    front_end: dict[str, Any] = {}
    """Options of its front end that differ from the published ones."""
    count: int = Field(1, ge=1)
    """Number of teachers, each with its own seed."""
    epochs: int = Field(ge=1)
    """Passes over the training clips."""
    batch_size: int = Field(ge=1)
    """Clips per training step."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the training."""
    augment: AugmentSettings = AugmentSettings()
    """Augmentation of its training clips; its logits are computed from clips as recorded."""
    optim: AnyOptim
    """Optimiser and learning rate."""


class DistillationSettings(Settings):
    """The student also learns from the mean logits of teachers that saw no clip outside its subset.

    loss = label_weight * CE + (1 - label_weight) * T^2 * mean over clips AND classes of p_t (log p_t - log p_s), with
    p = softmax(logits / T). The usual batch mean of the divergence is ten times as large: a weight of 0.98 here equals
    0.098 there, times T^2.
    """

    teachers: list[TeacherSettings] = []
    """All have the same weight in the mean."""
    logits: Path | None = None
    """Mean logits that another run wrote for the same subset (its logits/logits.h5), in place of teachers."""
    temperature: float = Field(2.0, gt=0)
    """T: larger values flatten the probabilities."""
    label_weight: float = Field(0.02, ge=0, le=1)
    """Weight of the labels' cross-entropy (lambda)."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored mean logits."""

    @model_validator(mode="after")
    def _one_source(self) -> "DistillationSettings":
        if bool(self.teachers) == (self.logits is not None):
            raise ValueError("give teachers, or logits of another run, not both")
        names = Counter(teacher.name for teacher in self.teachers)
        doubled = [name for name, count in names.items() if count > 1]
        if doubled:
            raise ValueError(f"two teachers are named {doubled[0]}; give each a name of its own")
        return self


class DeviceTuningSettings(Settings):
    """A copy of the trained network for each recording device of the subset, trained further on its clips.

    The device-aware part of the DCASE 2025 baseline; clips of other devices go to the original network.
    """

    epochs: int = Field(50, ge=1)
    """Passes over the clips of a device."""
    batch_size: int = Field(256, ge=1)
    """Clips per training step."""
    augment: AugmentSettings = AugmentSettings()
    """Augmentation of the clips."""
    optim: AnyOptim = OptimSettings(lr=5e-4, warmup_steps=200)
    """Optimiser and learning rate."""


class QuantizedTrainingSettings(Settings):
    """Train further with simulated 8-bit weights and activations, with the loss and augmentation of the network."""

    epochs: int = Field(20, ge=1)
    """Passes over the training clips."""
    lr: float = Field(5e-5, gt=0)
    """Learning rate at the start."""
    fall_from: int = Field(1, ge=0)
    """First epoch of the fall."""
    fall_epochs: int = Field(16, ge=0)
    """Epochs of the fall."""
    floor: float = Field(0.1, ge=0, le=1)
    """Share of the rate after the fall."""
    frozen_epochs: int = Field(4, ge=0)
    """Last epochs, with frozen ranges of activations and statistics of batch norms."""


class QuantizationSettings(Settings):
    """8-bit integers for weights (a scale per channel) and activations (a scale per layer); biases stay float32."""

    calibration_clips: int = Field(256, ge=1)
    """Training clips, as recorded, for the ranges of activations; not used with `training`."""
    training: QuantizedTrainingSettings | None = None
    """Train further with simulated 8 bit; null quantises the network as it is."""


class LimitsSettings(Settings):
    """Limits of the network at its submitted precision: int8 if it is quantised, else float16."""

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
    """Null takes the published front end of the model."""
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: AnyOptim
    trainer: TrainerSettings
    distillation: DistillationSettings | None = None
    """Null trains on labels only."""
    device_tuning: DeviceTuningSettings | None = None
    """Null keeps one network for all devices."""
    quantization: QuantizationSettings | None = None
    """Null submits the network in float16."""
    limits: LimitsSettings | None = None
    """Refuse to train a larger network; null trains any."""

    @property
    def precision(self) -> Literal["int8", "float16"]:
        """Number format of the submitted network."""
        return "float16" if self.quantization is None else "int8"

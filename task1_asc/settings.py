"""Settings of Task 1: what a YAML file in configs/ may say. No torch here."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from common.settings import Field, Settings
from common.trainer_settings import TrainerSettings


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


class Task1Settings(Settings):
    """One training of the Task 1 network on one subset with one seed."""

    name: str = Field(pattern=r"^[^/\\]+$")
    """Name of the run's folder; {subset} and {seed} in it stand for their values."""
    runs: Path = Path("runs/task1_asc")
    """Folder of the runs."""
    subset: Literal[5, 10, 25, 50, 100] = 25
    """Percent of the development-train split."""
    seed: int = Field(0, ge=0)
    """Decides initial weights, order of clips and augmentation."""
    data: DataSettings
    loader: LoaderSettings
    front_end: FrontEndSettings = FrontEndSettings()
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optim: OptimSettings
    trainer: TrainerSettings

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / self.name.replace("{subset}", str(self.subset)).replace("{seed}", str(self.seed))

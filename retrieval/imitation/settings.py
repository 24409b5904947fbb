"""Settings of query by vocal imitation."""

from pathlib import Path
from typing import Literal

from common.settings import Field, Settings
from common.settings.trainer import TrainerSettings
from retrieval.settings import AudioEncoder

Layout = Literal["qbv_coarse", "qbv_fine", "vimsketch"]


class ImitationData(Settings):
    """Pairs of a vocal imitation and the recording that it imitates."""

    layout: Layout = "qbv_coarse"
    """qbv_coarse: ten folds of VimSketch by sound; qbv_fine: VocalSketch, tested on VocalImitationSet; vimsketch: all
    pairs, tested on the QVIM development set."""
    root: Path
    """Folder of the training data (`coarse grained`, `VocalSketch` or `Vim_Sketch_Dataset`)."""
    test_root: Path | None = None
    """Folder of VocalImitationSet (qbv_fine) or of the QVIM development set (vimsketch)."""
    fold: int = Field(0, ge=0, le=9)
    """Fold of qbv_coarse."""
    duration: float = Field(10.0, gt=0)
    """Seconds that are heard: the beginning, zeros behind a shorter sound."""
    workers: int = Field(2, ge=0)
    """Processes that read sounds."""


class ImitationAugmentation(Settings):
    """Of the published recipe."""

    mixstyle_probability: float = Field(0.3, ge=0, le=1)
    """Of Freq-MixStyle, for each side on its own."""
    mixstyle_alpha: float = Field(0.4, gt=0)
    """Of its Beta distribution."""
    frequency_mask: int = Field(2, ge=0)
    """Largest width in mel bands."""
    time_mask: int = Field(400, ge=0)
    """Largest width in frames."""
    roll: int = Field(0, ge=0)
    """Samples by which the imitation alone is rolled at most (published option: 4000)."""


class ImitationTraining(Settings):
    """Adam; exponential warm-up, constant, linear fall, per epoch."""

    lr: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty of Adam."""
    batch_size: int = Field(16, gt=1)
    """Pairs that are contrasted."""
    temperature: float = Field(0.07, gt=0)
    """Divides the cosines."""
    mask_same_label: bool = True
    """Recordings of the same label leave the denominator (QVIM's baseline: false)."""
    warmup_epochs: int = Field(2, ge=0)
    """Length of the warm-up."""
    down_start: int = Field(4, ge=0)
    """Epoch after which the rate falls."""
    down_length: int = Field(7, ge=0)
    """Epochs of the fall."""
    floor: float = Field(1e-4, ge=0)
    """Factor after the fall."""
    trainer: TrainerSettings = TrainerSettings(epochs=15, accumulate=2)


class ImitationSettings(Settings):
    """Two encoders, one for the voice and one for recordings, in one space."""

    kind: Literal["imitation"]
    """Tells the configuration from one of text-to-audio retrieval."""
    name: str = Field("imitation", pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {fold} in it stand for their values."""
    runs: Path = Path("runs/retrieval")
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Of weights, order and augmentation."""
    data: ImitationData
    audio: AudioEncoder = AudioEncoder(model="mn10.as")
    """Encoder of both sides."""
    shared: bool = False
    """One encoder for both sides instead of two that start equal."""
    augmentation: ImitationAugmentation = ImitationAugmentation()
    training: ImitationTraining = ImitationTraining()
    eval_batch: int = Field(32, gt=0)
    """Sounds encoded at once when nothing is trained."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / self.name.replace("{seed}", str(self.seed)).replace("{fold}", str(self.data.fold))

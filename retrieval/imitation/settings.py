"""Settings of query by vocal imitation."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from common.settings import Field, RunSettings, Settings, TrainerSettings
from retrieval.settings import AudioEncoder

Layout = Literal["qbv_coarse", "qbv_fine", "vimsketch"]

MONITOR = "MRR"
"""Figure of the validation that selects the epoch."""


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
    """Seconds of each sound, from its beginning; shorter sounds are filled with zeros."""
    num_workers: int = Field(2, ge=0)
    """Processes that read sounds."""


class ImitationAugmentation(Settings):
    """Augmentation of the published recipes."""

    mixstyle_probability: float = Field(0.3, ge=0, le=1)
    """Probability of Freq-MixStyle, for each side on its own."""
    mixstyle_alpha: float = Field(0.4, gt=0)
    """Parameter of its Beta distribution."""
    frequency_mask: int = Field(2, ge=0)
    """Largest width in mel bands."""
    time_mask: int = Field(400, ge=0)
    """Largest width in frames."""
    roll: int = Field(0, ge=0)
    """Largest circular shift of the imitation alone, in samples."""


class AdamRamps(Settings):
    """Adam; exponential warm-up, constant, linear fall, constant, per epoch (QBV)."""

    kind: Literal["adam_ramps"] = "adam_ramps"
    """Tells this optimiser from the others."""
    lr: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty."""
    warmup_epochs: int = Field(2, ge=0)
    """Length of the warm-up."""
    down_start: int = Field(4, ge=0)
    """Epoch at which the fall starts."""
    down_length: int = Field(7, ge=0)
    """Length of the fall in epochs."""
    floor: float = Field(1e-4, ge=0)
    """Share of the peak after the fall."""


class AdamWCosine(Settings):
    """AdamW; linear from the lowest rate to the peak, half a cosine back, constant, per step (QVIM's baseline)."""

    kind: Literal["adamw_cosine"]
    """Tells this optimiser from the others."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(1e-4, ge=0)
    """Learning rate of the first step and after the decay."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    warmup_epochs: float = Field(1, ge=0)
    """Length of the warm-up."""
    down_epochs: float = Field(7, ge=0)
    """Length of the decay."""


class ImitationTraining(Settings):
    """Contrast between the pairs of a batch."""

    batch_size: int = Field(16, gt=1)
    """Pairs that are contrasted."""
    temperature: float = Field(0.07, gt=0)
    """Divisor of the cosines."""
    mask_same_label: bool = True
    """Leave recordings of the same label out of the denominator (QVIM's baseline: no)."""
    optim: AdamRamps | AdamWCosine = Field(AdamRamps(), discriminator="kind")
    """Optimiser and learning rates."""


class ImitationSettings(RunSettings):
    """Two encoders, one for the voice and one for recordings, in one space."""

    kind: Literal["imitation"]
    """Tells the configuration from one of text-to-audio retrieval."""
    name: str = Field("imitation", pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {fold} in it stand for their values."""
    runs: Path = Path("runs/retrieval")
    """Folder of the runs."""
    data: ImitationData
    audio: AudioEncoder = AudioEncoder(model="mn10.as")
    """Encoder of both sides."""
    shared: bool = False
    """One encoder for both sides instead of two that start equal."""
    augmentation: ImitationAugmentation = ImitationAugmentation()
    training: ImitationTraining = ImitationTraining()
    trainer: TrainerSettings = TrainerSettings(epochs=15, accumulate=2)
    """Length and devices of the training."""
    tested: Literal["best", "last"] = "best"
    """Epoch that is tested: highest MRR of held-out imitations, or the last one, with none of VimSketch held out."""
    eval_batch: int = Field(32, gt=0)
    """Sounds encoded at once in validation and test."""

    short_names: ClassVar[tuple[str, ...]] = ("fold",)

    def value_in_name(self, field: str) -> Any:
        """The fold stands in the name without its group, too."""
        return self.data.fold if field == "fold" else super().value_in_name(field)

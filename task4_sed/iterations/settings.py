"""Settings of the two-iteration recipe: what two_iterations.yaml may say. No torch here.

    loss of a step = scale * [ (w.maestro BCE_maestro + w.strong BCE_strong + w.synthetic BCE_synthetic) / frame_divisor
                              + w.weak BCE_weak / clip_divisor
                              + r * (MSE of frames + MSE of clips / clip_divisor)      student against teacher
                              + w.pseudo * (w.maestro BCE_maestro + (w.strong + w.synthetic + w.weak) BCE_desed) ]
    r = w.consistency * min(step / ramp_steps, ramp_limit)

Stage 1 and stage 2 are this one sum with other numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings, parse_settings
from common.settings.trainer import TrainerSettings
from task4_sed.settings import (
    TRAINING_SETS,
    AugmentSettings,
    FilterSettings,
    FrequencyWarpSettings,
    FrontEndSettings,
    ModelSettings,
    SourceSettings,
    SystemSettings,
    ValidationSettings,
)

KINDS = ("maestro", "strong", "synthetic", "weak", "unlabeled")
"""Parts of a batch, in their order."""
KIND_OF_LABELS = {
    "maestro": "soft",
    "strong": "strong",
    "synthetic": "strong",
    "weak": "weak",
    "unlabeled": "unlabeled",
}


class AverageSettings(Settings):
    """The teacher: a moving average of the student."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Of the average, per step; less at the start, where it is the plain mean."""
    average_statistics: bool = True
    """Average the batch norms' statistics too; as published, only parameters, and the teacher keeps its own."""


class SetsSettings(Settings):
    """Which sets the clips of each part of a batch are drawn from, together."""

    maestro: list[TRAINING_SETS] = ["maestro_train"]
    """Soft labels."""
    strong: list[TRAINING_SETS] = ["strong", "external_strong"]
    """Real clips with strong labels."""
    synthetic: list[TRAINING_SETS] = ["synthetic_train"]
    """Synthetic clips with strong labels."""
    weak: list[TRAINING_SETS] = ["weak"]
    """Weak labels."""
    unlabeled: list[TRAINING_SETS] = ["unlabeled"]
    """No labels."""


class DataSettings(SourceSettings):
    """Where the clips are, and which of them are trained on."""

    sets: SetsSettings = SetsSettings()
    exclude: dict[TRAINING_SETS, Path] = {}
    """Per set a table with a column filename, relative to root: clips that are left out since another set has them."""


class BatchSettings(Settings):
    """Clips of each kind in a batch, in this order; 0 leaves a kind out."""

    maestro: int = Field(ge=0)
    strong: int = Field(ge=0)
    synthetic: int = Field(ge=0)
    weak: int = Field(ge=0)
    unlabeled: int = Field(ge=0)

    @model_validator(mode="after")
    def _not_empty(self) -> "BatchSettings":
        if not any(getattr(self, kind) for kind in KINDS):
            raise ValueError("every kind has 0 clips")
        return self


class LossWeights(Settings):
    """Weights of the parts of the loss, in the order in which they were published."""

    maestro: float = Field(ge=0)
    """Frames with soft labels."""
    strong: float = Field(ge=0)
    """Frames of real clips."""
    synthetic: float = Field(ge=0)
    """Frames of synthetic clips."""
    weak: float = Field(ge=0)
    """Clips with weak labels."""
    consistency: float = Field(ge=0)
    """Agreement of student and teacher."""
    pseudo: float = Field(ge=0)
    """Frames against pseudo-labels."""


class LossSettings(Settings):
    """How the parts are put together, see the top of this file."""

    weights: LossWeights
    scale: float = Field(1.0, gt=0)
    """Of the whole sum."""
    frame_divisor: float = Field(1.0, gt=0)
    """Of the sum over labelled frames."""
    clip_divisor: float = Field(1.0, gt=0)
    """Of the losses of clips, with labels or with the teacher."""


class ConsistencySettings(Settings):
    """What student and teacher are compared on."""

    ramp_steps: int = Field(ge=1)
    """The weight grows by itself once in every so many steps ..."""
    ramp_limit: float = Field(gt=0)
    """... up to this many times itself."""
    masked: bool
    """Compare only valid classes: those of the clip's data set and, where it is mixed, those active in its partner."""
    weak_on_maestro: bool
    """Compare clip scores of MAESTRO clips too. Without, interpolation leaves out the classes of MAESTRO in the clip
    scores of all labelled clips, as published."""
    teacher_hears: Literal["augmented", "clean"]
    """augmented: what the student hears, with filters of its own. clean: the clip, neither mixed nor coloured."""
    interpolation: bool
    """In steps with mixup the target is the mixture of the teacher's outputs for both clean clips."""
    interpolation_divisor: float = Field(32.0, gt=0)
    """Divisor of the sum of the terms (8), and of its weight (4)."""
    joint_term_twice: bool
    """Strong and MAESTRO clips are mixed jointly; as published, their common term counts twice, once for each."""


class WarpSettings(FrequencyWarpSettings):
    """The transformer sees a part of the mel axis, stretched over all of it; one part per group of clips."""

    maestro: bool = False
    """Warp MAESTRO clips too."""


class ImpulseResponseSettings(Settings):
    """Clips sound as if another microphone had recorded them."""

    folder: Path
    """Folder of impulse responses, one audio file per device."""
    probability: float = Field(0.5, ge=0, le=1)
    """Probability of changing a clip."""


class StageAugmentSettings(AugmentSettings):
    """Augmentation of training clips. Each step of a batch is decided once for all its clips."""

    impulse_responses: ImpulseResponseSettings | None = None
    gain_db: float = Field(0.0, ge=0)
    """Clips become louder or softer by up to this much."""
    frequency_warp: WarpSettings | None = None


class OptimSettings(Settings):
    """The optimiser; learning rates rise linearly and fall to 0 as half a cosine, step by step."""

    name: Literal["adamw", "adam"] = "adamw"
    """adam adds the weight decay to the gradient, adamw takes it off the weights."""
    cnn_lr: float = Field(ge=0)
    """Peak rate of the convolutions."""
    rnn_lr: float = Field(ge=0)
    """Peak rate of fusion, recurrent layers and heads."""
    transformer_lr: float | None = Field(None, gt=0)
    """Peak rate of the transformer; null freezes it."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Group i of the transformer from the top gets layer_decay^i: final norm, blocks, patches and positions."""
    weight_decay: float = Field(ge=0)
    """Of all parameters."""
    warmup_steps: int = Field(ge=0)
    """Length of the rise."""


class StageSettings(Settings):
    """One training of the network."""

    batch: BatchSettings
    accumulate: int = Field(1, ge=1)
    """Batches that make one step of the optimiser; processes that train together share them."""
    epochs: int = Field(ge=1)
    """An epoch goes once through the set that runs out first."""
    dropout: float = Field(ge=0, lt=1)
    """After each convolution block, before the fusion and before the heads."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; null does not clip."""
    loss: LossSettings
    consistency: ConsistencySettings
    augment: StageAugmentSettings = StageAugmentSettings()
    front_end: dict[str, Any] = {}
    """Options of the transformer's front end in training, such as f_max_jitter."""
    optim: OptimSettings


class ProjectionSettings(Settings):
    """A linear layer between transformer and CRNN."""

    dim: int = Field(527, ge=1)
    """What the CRNN sees of each frame."""
    trained: bool = False
    """As published it stays at its random values, in both stages."""


class TransformerSettings(Settings):
    """One member of the ensemble."""

    model: str
    """A frame model that `python -m common models` lists, or one of its released weights."""
    weights: Path | None = None
    """File of weights; null takes the registered ones and downloads them where they are absent."""
    untrained: bool = False
    """Random weights, to try the way without a download."""
    options: dict[str, Any] = {}
    """Options of the model, such as a smaller depth with `untrained`."""
    checkpointing: bool = False
    """Compute each block again in the backward pass: about a third more time for a fraction of the memory."""
    projection: ProjectionSettings | None = None
    """Null gives the CRNN the frames as they are."""
    aggregation: Literal["adaptive", "nearest", "exact"] = "adaptive"
    """How they come to 156 frames; exact, for BEATs, averages the frequency patches of a time step first."""
    stage1: dict[str, Any] = {}
    """What differs from `stage1`, in both iterations."""
    stage1_distilled: dict[str, Any] = {}
    """What differs from `stage1_distilled`."""
    stage2: dict[str, Any] = {}
    """What differs from `stage2`."""


class PseudoLabelSettings(Settings):
    """What the second iteration learns from."""

    folder: Path | None = None
    """Folder of the stores of another system, in place of the first iteration, which is then left out."""


class HeldOutSettings(ValidationSettings):
    """Clips held out of training choose the best epoch: PSDS1 of each strong set and mpAUC of MAESTRO, added up."""

    external: bool = True
    """The validation part of the external strong set is scored, where the system is trained on that set."""


class CrnnSettings(ModelSettings):
    """The network around the transformer."""

    gate: Literal["glu", "cg"] = "cg"
    """Gate of the blocks: the baseline's, or context gating."""
    fusion_dim: int = Field(256, ge=1)
    """Width of the frames after spectrogram features and transformer are joined."""
    rnn_dim: int = Field(256, ge=1)
    """GRU cells of one direction."""


class Submitted(FilterSettings):
    """From raw scores to those that are handed in."""

    system: str = "ensemble"
    """Whose scores of the last stage: ensemble, or the name of one transformer."""
    network: Literal["teacher", "student"] = "student"
    """Which of the two networks of a training is scored, also for pseudo-labels."""


class TwoIterations(SystemSettings):
    """Two iterations of two stages with several transformers, and pseudo-labels of their ensemble in between."""

    recipe: Literal["two_iterations"]
    """Tells this recipe from a single training."""
    data: DataSettings
    front_end: FrontEndSettings = FrontEndSettings()
    crnn: CrnnSettings = CrnnSettings()
    teacher: AverageSettings = AverageSettings()
    transformers: dict[str, TransformerSettings] = Field(min_length=1)
    """By a name of their own; each is trained in both iterations."""
    members: list[str] | None = None
    """Which of them take part; null takes all."""
    stage1: StageSettings
    """The transformer is frozen; first iteration."""
    stage1_distilled: dict[str, Any] = {}
    """What differs in the second iteration, which also learns the pseudo-labels."""
    stage2: StageSettings
    """Everything is trained; both iterations."""
    pseudo_labels: PseudoLabelSettings = PseudoLabelSettings()
    validation: HeldOutSettings = HeldOutSettings()
    postprocessing: Submitted = Submitted()

    @property
    def system(self) -> str:
        """Name of the recipe."""
        return self.recipe

    @property
    def names(self) -> list[str]:
        """Names of the transformers that take part."""
        return list(self.transformers) if self.members is None else self.members

    @property
    def iterations(self) -> tuple[int, ...]:
        """Which iterations there are to do."""
        return (1, 2) if self.pseudo_labels.folder is None else (2,)

    @property
    def network(self) -> str:
        """Whose scores are handed in."""
        system = self.names[0] if len(self.names) == 1 else self.postprocessing.system
        return f"iteration2_stage2_{system}"

    @property
    def training_stages(self) -> list[str]:
        """Folders of all that is trained, and of the scores that pseudo-labels are made of."""
        kinds = ("stage1", "stage2", "scores")
        every = [f"iteration{i}_{kind}_{name}" for i in self.iterations for kind in kinds for name in self.names]
        return [name for name in every if not name.startswith("iteration2_scores")]

    def stage(self, transformer: str, iteration: int, number: int) -> StageSettings:
        """The settings of one training, all differences laid on top."""
        own = self.transformers[transformer]
        base = self.stage1 if number == 1 else self.stage2
        layers = [("stage1", own.stage1)] if number == 1 else [("stage2", own.stage2)]
        if number == 1 and iteration == 2:
            layers.insert(0, ("", self.stage1_distilled))
            layers.append(("stage1_distilled", own.stage1_distilled))
        data = base.model_dump(mode="json")
        for name, differs in layers:
            data = _laid_over(data, differs)
            origin = f"transformers.{transformer}.{name}" if name else "stage1_distilled"
            settings = parse_settings(StageSettings, data, origin)
        return settings

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return (1 if self.trainer.devices == "auto" else self.trainer.devices) * self.trainer.num_nodes

    def trainer_of(self, stage: StageSettings) -> TrainerSettings:
        """The trainer of a training: this machine, with the stage's length; processes share the batches of a step."""
        accumulate = stage.accumulate // self.processes
        own = {"epochs": stage.epochs, "accumulate": accumulate, "gradient_clip": stage.gradient_clip}
        return TrainerSettings(**self.trainer.model_dump(), **own)

    @model_validator(mode="after")
    def _fits_together(self) -> "TwoIterations":
        for name in self.names:
            if name not in self.transformers:
                raise ValueError(f"members names {name}; there are: {', '.join(self.transformers)}")
            for iteration, number in ((1, 1), (2, 1), (1, 2)):
                stage = self.stage(name, iteration, number)
                if stage.accumulate % self.processes:
                    raise ValueError(
                        f"trainer.devices and num_nodes make {self.processes} processes, which cannot share the "
                        f"{stage.accumulate} batches of a step of stage {number} of {name}; set its accumulate to a "
                        f"multiple of {self.processes} and the counts of its batch lower by as much"
                    )
        system = self.postprocessing.system
        if system not in ("ensemble", *self.names):
            raise ValueError(
                f"postprocessing.system is {system}; it must be ensemble or one of {', '.join(self.names)}"
            )
        self.crnn.refuse_other_sizes(self.front_end.n_mels, "crnn")
        return self


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes` in it, group by group."""
    merged = dict(base)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _laid_over(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged

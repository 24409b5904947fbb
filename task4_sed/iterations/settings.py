"""Settings of the two-iteration recipe. No torch here.

    loss of a step = scale * [ (w.maestro BCE_maestro + w.strong BCE_strong + w.synthetic BCE_synthetic) / frame_divisor
                              + w.weak BCE_weak / clip_divisor
                              + r * (MSE of frames + MSE of clips / clip_divisor)      student against teacher
                              + w.pseudo * (w.maestro BCE_maestro + (w.strong + w.synthetic + w.weak) BCE_desed) ]
    r = w.consistency * min(step / ramp_steps, ramp_limit)

Stage 1 and stage 2 are this sum with other numbers. Classes that are not valid for a clip add nothing to any BCE.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, Settings, TrainerSettings, parse_settings
from task4_sed.settings import (
    TRAINING_SETS,
    AugmentSettings,
    AverageSettings,
    FilterSettings,
    FrameModelSettings,
    FrequencyWarpSettings,
    FrontEndSettings,
    ModelSettings,
    SourceSettings,
    SystemSettings,
    ValidationSettings,
)

KINDS = ("maestro", "strong", "synthetic", "weak", "unlabeled")
"""Kinds of clips in a batch, in their order."""
KIND_OF_LABELS = {
    "maestro": "soft",
    "strong": "strong",
    "synthetic": "strong",
    "weak": "weak",
    "unlabeled": "unlabeled",
}


class SetsSettings(Settings):
    """Sets from which the clips of each kind are drawn, joined."""

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
    """Location of the clips, and the sets to train on."""

    sets: SetsSettings = SetsSettings()
    exclude: dict[TRAINING_SETS, Path] = {}
    """Table of excluded clips by set, with a column filename, relative to root: clips that another set also has."""


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
    """Weights of the parts of the loss, in the published order."""

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
    """Sum of the parts, see the top of this file."""

    weights: LossWeights
    scale: float = Field(1.0, gt=0)
    """Factor of the whole sum."""
    frame_divisor: float = Field(1.0, gt=0)
    """Divisor of the sum over labelled frames."""
    clip_divisor: float = Field(1.0, gt=0)
    """Divisor of the losses of clips, against labels and against the teacher."""


class ConsistencySettings(Settings):
    """Comparison of student and teacher."""

    ramp_steps: int = Field(ge=1)
    """The weight's factor rises by 1 in this many steps ..."""
    ramp_limit: float = Field(gt=0)
    """... up to this factor."""
    masked: bool
    """Compare only valid classes: of the clip's data set and, where it is mixed, the active ones of its partner."""
    weak_on_maestro: bool
    """Compare clip scores of MAESTRO clips too. Without, interpolation leaves out the classes of MAESTRO in the clip
    scores of all labelled clips, as published."""
    teacher_hears: Literal["augmented", "clean"]
    """augmented: the student's input, with a filter of its own. clean: the clip before mixup, MixStyle and filters."""
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
    """Optimiser; learning rates rise linearly, then fall to 0 as half a cosine, step by step."""

    name: Literal["adamw", "adam"] = "adamw"
    """adam adds the weight decay to the gradient, adamw subtracts it from the weights."""
    cnn_lr: float = Field(ge=0)
    """Peak rate of the convolutions."""
    rnn_lr: float = Field(ge=0)
    """Peak rate of fusion, recurrent layers and heads."""
    transformer_lr: float | None = Field(None, gt=0)
    """Peak rate of the transformer; null freezes it."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Group i of the transformer from the top has transformer_lr * layer_decay^i: final norm, blocks, the rest."""
    weight_decay: float = Field(ge=0)
    """Weight decay of all parameters, biases and norms included."""
    warmup_steps: int = Field(ge=0)
    """Steps of the rise."""


class StageSettings(Settings):
    """One training of the network."""

    batch: BatchSettings
    accumulate: int = Field(1, ge=1)
    """Batches per step of the optimiser; processes that train together share them."""
    epochs: int = Field(ge=1)
    """Number of epochs; an epoch ends with the smallest kind of clips."""
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
    """Width of the frames that the CRNN reads."""
    trained: bool = False
    """As published, it keeps its random values in both stages."""


class TransformerSettings(FrameModelSettings):
    """One member of the ensemble."""

    checkpointing: bool = False
    """Recompute each block in the backward pass: about a third more time, a fraction of the memory."""
    projection: ProjectionSettings | None = None
    """Null gives the CRNN the frames as they are."""
    aggregation: Literal["adaptive", "nearest", "exact"] = "adaptive"
    """Resampling to 156 frames; exact, for BEATs, first averages the frequency patches of a time step."""
    stage1: dict[str, Any] = {}
    """Settings that differ from `stage1`, in both iterations."""
    stage1_distilled: dict[str, Any] = {}
    """Settings that differ from `stage1_distilled`."""
    stage2: dict[str, Any] = {}
    """Settings that differ from `stage2`."""


class PseudoLabelSettings(Settings):
    """Targets of the second iteration."""

    folder: Path | None = None
    """Folder of another system's stores, which replace the first iteration."""


class HeldOutSettings(ValidationSettings):
    """Clips used to choose the best epoch, by the sum of PSDS1 of each strong set and mpAUC of MAESTRO."""

    external: bool = True
    """Score the validation part of the external strong set, if the system is trained on that set."""


class CrnnSettings(ModelSettings):
    """The network around the transformer."""

    gate: Literal["glu", "cg"] = "cg"
    """Gate of the blocks: glu (baseline) or context gating."""
    fusion_dim: int = Field(256, ge=1)
    """Width of the frames after joining spectrogram features and transformer."""
    rnn_dim: int = Field(256, ge=1)
    """GRU cells of one direction."""


class Submitted(FilterSettings):
    """Post-processing of the submitted scores."""

    system: str = "ensemble"
    """Submitted system of the last stage: ensemble, or the name of one transformer."""
    network: Literal["teacher", "student"] = "student"
    """Network of each training that is scored, for pseudo-labels too."""


class TwoIterations(SystemSettings):
    """Two iterations of two stages with several transformers, with pseudo-labels of their ensemble in between."""

    recipe: Literal["two_iterations"]
    """Marks this recipe."""
    data: DataSettings
    front_end: FrontEndSettings = FrontEndSettings()
    crnn: CrnnSettings = CrnnSettings()
    teacher: AverageSettings = AverageSettings()
    transformers: dict[str, TransformerSettings] = Field(min_length=1)
    """Members of the ensemble by name; each is trained in both iterations."""
    members: list[str] | None = None
    """Names of the transformers to use; null uses all."""
    stage1: StageSettings
    """Stage 1 of the first iteration; the transformer is frozen."""
    stage1_distilled: dict[str, Any] = {}
    """Settings that differ in the second iteration, which also learns from pseudo-labels."""
    stage2: StageSettings
    """Stage 2 of both iterations; everything is trained."""
    pseudo_labels: PseudoLabelSettings = PseudoLabelSettings()
    validation: HeldOutSettings = HeldOutSettings()
    postprocessing: Submitted = Submitted()

    @property
    def system(self) -> str:
        """Name of the recipe."""
        return self.recipe

    @property
    def names(self) -> list[str]:
        """Names of the transformers to use."""
        return list(self.transformers) if self.members is None else self.members

    @property
    def iterations(self) -> tuple[int, ...]:
        """Iterations of the run."""
        return (1, 2) if self.pseudo_labels.folder is None else (2,)

    @property
    def network(self) -> str:
        """Name of the submitted system."""
        system = self.names[0] if len(self.names) == 1 else self.postprocessing.system
        return f"iteration2_stage2_{system}"

    @property
    def training_stages(self) -> list[str]:
        """Folders of all trainings, and of the scores behind pseudo-labels."""
        kinds = ("stage1", "stage2", "scores")
        every = [f"iteration{i}_{kind}_{name}" for i in self.iterations for kind in kinds for name in self.names]
        return [name for name in every if not name.startswith("iteration2_scores")]

    def stage(self, transformer: str, iteration: int, number: int) -> StageSettings:
        """Settings of one training, with all differences applied."""
        own = self.transformers[transformer]
        base = self.stage1 if number == 1 else self.stage2
        layers = [("stage1", own.stage1)] if number == 1 else [("stage2", own.stage2)]
        if number == 1 and iteration == 2:
            layers.insert(0, ("", self.stage1_distilled))
            layers.append(("stage1_distilled", own.stage1_distilled))
        data = base.model_dump(mode="json")
        for name, differs in layers:
            data = _apply(data, differs)
            origin = f"transformers.{transformer}.{name}" if name else "stage1_distilled"
            settings = parse_settings(StageSettings, data, origin)
        return settings

    def trainer_settings(self, stage: StageSettings) -> TrainerSettings:
        """Settings of the trainer for a stage; processes share the batches of a step."""
        accumulate = stage.accumulate // self.trainer.processes
        own = {"epochs": stage.epochs, "accumulate": accumulate, "gradient_clip": stage.gradient_clip}
        return TrainerSettings(**self.trainer.model_dump(), **own)

    @model_validator(mode="after")
    def _fits_together(self) -> "TwoIterations":
        for name in self.names:
            if name not in self.transformers:
                raise ValueError(f"members names {name}; there are: {', '.join(self.transformers)}")
            for iteration, number in ((1, 1), (2, 1), (1, 2)):
                stage = self.stage(name, iteration, number)
                if stage.accumulate % self.trainer.processes:
                    raise ValueError(
                        f"trainer.devices and num_nodes make {self.trainer.processes} processes, which cannot share "
                        f"the {stage.accumulate} batches of a step of stage {number} of {name}; set its accumulate to "
                        f"a multiple of {self.trainer.processes} and the counts of its batch lower by as much"
                    )
        system = self.postprocessing.system
        if system not in ("ensemble", *self.names):
            raise ValueError(
                f"postprocessing.system is {system}; it must be ensemble or one of {', '.join(self.names)}"
            )
        self.crnn.refuse_other_sizes(self.front_end.n_mels, "crnn")
        return self


def _apply(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `base` with `changes`, group by group."""
    merged = dict(base)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _apply(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged

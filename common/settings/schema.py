"""Schema of settings: the base class, the groups that every recipe has, and the walk over their fields.

No torch here, so that `--help` is quick.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """A group of settings: frozen, without unknown names; the string under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def for_data(cls, data: Mapping[str, Any]) -> "type[Settings]":
        """The class for the content of a file; a task with several systems overrides this to choose between them."""
        return cls


AnySettings = TypeVar("AnySettings", bound=Settings)


class MachineSettings(Settings):
    """Devices and logs."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Device type; auto takes a GPU if there is one."""
    devices: Literal["auto"] | int = "auto"
    """GPUs per node; auto takes one. On a CPU: processes."""
    num_nodes: int = Field(1, ge=1)
    """Nodes, each started by torchrun or srun."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the training."""
    matmul: Literal["highest", "high"] = "highest"
    """Products of float32 matrices on a GPU: high computes them in TF32 (10 bits, not 23), spectrograms excepted."""
    compile: bool = False
    """Compile networks with torch.compile (but for the CRNN of Task 4): slow first steps, then quicker ones on a GPU.
    Needs a C++ compiler. Not tried on a GPU yet."""
    validate_every: int = Field(1, ge=1)
    """Epochs between two validations."""
    deterministic: bool | Literal["warn"] = True
    """Repeat a training bit for bit. On a CPU every training does, with any value, as long as machine and number of
    threads stay. On a GPU true uses deterministic algorithms only (attention too; slower) and stops at an operation
    that has none, warn names that operation and goes on; bits differ between kinds of GPUs, and from a CPU."""
    keep_memory: bool = True
    """Keep freed memory for the next step instead of returning it to the system: faster on a CPU, up to a fifth more
    memory at the peak (needs glibc; nothing changes without it)."""
    measure_energy: bool = True
    """Measure the energy of the training with codecarbon, in kWh, into energy.json."""
    country: str = Field("AUT", pattern="^[A-Z]{3}$")
    """Country of the electricity, an ISO code of three letters; decides the kg of CO2, not the kWh."""
    tensorboard: bool = False
    """Also write logs for TensorBoard (needs the package tensorboard)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (needs the package wandb)."""

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return (1 if self.devices == "auto" else self.devices) * self.num_nodes


class TrainerSettings(MachineSettings):
    """Length and devices of a training."""

    epochs: int = Field(ge=1)
    """Passes over the training clips."""
    gradient_clip: float | None = Field(None, gt=0)
    """Maximum norm of the gradient; null does not clip."""
    accumulate: int = Field(1, ge=1)
    """Batches per step of the optimiser."""


class RunSettings(Settings):
    """Base class of the settings of a recipe; a task gives `runs` a default."""

    name: str = Field(min_length=1)
    """Name of the run's folder; {seed}, or any other setting in braces, stands for its value."""
    runs: Path
    """Folder of the runs."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, order of clips and augmentation."""
    short_names: ClassVar[tuple[str, ...]] = ()
    """What braces in the name may hold beside settings; see `value_in_name`."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name != name.strip() or name[:1] in ("-", "."):
            raise ValueError("a run's name cannot begin with a dash, a dot or a space, nor end with a space")
        if found := re.search(r"[/\\\x00-\x1f\x7f]", name):
            raise ValueError(f"a run's name cannot hold {found[0]!r}")
        known = {*cls.short_names, *(setting for setting, _ in iterate_settings(cls))}
        rest = re.sub(r"\{([\w.]+)\}", lambda found: "" if found[1] in known else found[0], name)
        if found := re.search(r"\{[^{}]*\}?|\}", rest):
            raise ValueError(f"{found[0]} names no setting; braces stand for the value of a setting, as in {{seed}}")
        return name

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.runs / re.sub(r"\{([\w.]+)\}", lambda found: self._part(found[1], found[0]), self.name)

    def value_in_name(self, field: str) -> Any:
        """What `{field}` in the name stands for; None leaves it as it is. Dots lead into groups: `{data.fold}`."""
        value: Any = self
        for key in field.split("."):
            value = getattr(value, key, None) if key in getattr(type(value), "model_fields", {}) else None
        return None if isinstance(value, Settings) else value

    def _part(self, field: str, otherwise: str) -> str:
        value = self.value_in_name(field)
        return otherwise if value is None else re.sub(r"[{}/\\\x00-\x1f]", "-", str(value))


def setting_fields(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes in an annotation such as `list[A | B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from setting_fields(part)


def iterate_settings(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of each setting and group."""
    for name, field in cls.model_fields.items():
        yield prefix + name, field.annotation
        if get_origin(field.annotation) not in (list, tuple, dict):
            for group in setting_fields(field.annotation):
                yield from iterate_settings(group, f"{prefix}{name}.")

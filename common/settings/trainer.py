"""Settings of a training loop. No torch here, so that a command line that shows them is quick."""

from typing import Literal

from common.settings import Field, Settings


class MachineSettings(Settings):
    """What to compute on, and what is written meanwhile."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What to compute on; auto takes a GPU where there is one."""
    devices: Literal["auto"] | int = "auto"
    """How many GPUs per node; auto takes one. On a CPU: how many processes."""
    num_nodes: int = Field(1, ge=1)
    """Machines that train together, each started by torchrun or srun."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the training."""
    validate_every: int = Field(1, ge=1)
    """Epochs between two validations."""
    deterministic: bool = True
    """Choose deterministic algorithms, also on a GPU, where it costs some speed."""
    measure_energy: bool = True
    """Write energy.json with the kWh of the training, by codecarbon."""
    country: str = Field("AUT", pattern="^[A-Z]{3}$")
    """ISO code of the country whose electricity is used (three letters); decides the kg of CO2, not the kWh."""
    tensorboard: bool = False
    """Also write logs for TensorBoard (needs the package tensorboard)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (needs the package wandb)."""


class TrainerSettings(MachineSettings):
    """How long and on what to train."""

    epochs: int = Field(ge=1)
    """How often the training clips are gone through."""
    gradient_clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; null does not clip."""
    accumulate: int = Field(1, ge=1)
    """Batches that are added up before each step of the optimiser."""

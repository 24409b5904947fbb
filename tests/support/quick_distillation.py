"""Settings of a run of Task 1 with teachers, a student and 8 bit whose networks take milliseconds."""

from common.settings import load_settings
from task1_asc.settings import Task1Settings
from tests.support.places import ROOT

CONFIGS = ROOT / "task1_asc" / "configs"
FRONT_END = {"n_mels": 32, "n_fft": 1024, "win_length": 1024, "hop_length": 2000}
QUICK = {
    "subset": 5,
    "loader.batch_size": 32,
    **{f"front_end.{name}": value for name, value in FRONT_END.items()},
    "model.base_channels": 8,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
    "quantization.calibration_clips": 32,
    "distillation.teachers.0.epochs": 1,
    "distillation.teachers.0.front_end": FRONT_END,
    "distillation.teachers.1.epochs": 1,
    "distillation.teachers.1.front_end": FRONT_END,
    "distillation.teachers.1.options": {"base_channels": 8},
}


def quick(root, runs, **overrides):
    """Settings of a run whose networks take milliseconds."""
    overrides = {name.replace("__", "."): value for name, value in overrides.items()}
    places = {"data.root": str(root), "runs": str(runs), "name": "quick"}
    return load_settings(Task1Settings, CONFIGS / "distilled_small.yaml", {**QUICK, **places, **overrides})


def published():
    """Settings of the published recipe."""
    return load_settings(Task1Settings, CONFIGS / "distilled.yaml")

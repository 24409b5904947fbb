"""The model of a run of the baseline, for the verbs of `common`."""

from pathlib import Path

from common.models.audio_model import AudioModel
from common.runs.run import open_run
from task4_sed.baseline.recipe import load_module
from task4_sed.baseline.settings import Task4Settings
from task4_sed.mean_teacher.as_model import DetectorModel


def load_run(folder: Path) -> AudioModel:
    """The submitted network of a run, with the frozen model that it reads, in evaluation mode; no post-processing."""
    run = open_run(folder, Task4Settings)
    module = load_module(run, embed=True)
    student = run.settings.network == "student"
    model = DetectorModel(module.front_end, [module], student, run.settings.model.name)
    model.add_module("frozen", module.frozen)  # where `export` finds it
    return model

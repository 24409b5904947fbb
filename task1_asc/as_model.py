"""The model of a Task 1 run, for the verbs of `common`."""

from pathlib import Path

from common.models.audio_model import AudioModel
from common.runs.run import open_run
from task1_asc.data.tau2022 import SAMPLE_RATE
from task1_asc.networks.build import load_run_model
from task1_asc.settings import Task1Settings


def load_run(folder: Path) -> AudioModel:
    """The float network of a run for all devices, in evaluation mode; longer recordings are windows of one second."""
    run = open_run(folder, Task1Settings)
    data = run.settings.data
    return load_run_model(run, data.sample_rate if data.packed else SAMPLE_RATE)

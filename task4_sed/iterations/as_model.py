"""The model of a run of the two iterations, for the verbs of `common`."""

from pathlib import Path

from common.models.audio_model import AudioModel
from common.runs.run import open_run
from task4_sed.iterations.recipe import load_training, submitted_names
from task4_sed.iterations.settings import TwoIterations
from task4_sed.mean_teacher.as_model import DetectorModel


def load_run(folder: Path) -> AudioModel:
    """The submitted network or ensemble of a run, in evaluation mode; no post-processing."""
    run = open_run(folder, TwoIterations)
    members = [load_training(run, name, 2, 2) for name in submitted_names(run.settings)]
    student = run.settings.postprocessing.network == "student"
    return DetectorModel(members[0].front_end, members, student, run.settings.network)

"""The verb `compare`: systems on the test split, from the logits that their tests wrote."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from common.data.files import read_json
from common.errors import UserError
from common.reports.compare import Comparison, Measured
from common.runs.run import Run, open_run
from common.runs.systems import compare_paths
from task1_asc.data.tau2022 import CLASSES, DEVICE_GROUPS, DEVICES, NAME_PATTERN
from task1_asc.metrics import accuracy_draws
from task1_asc.settings import Task1Settings

LOGITS = "logits.npz"


def compare_systems(paths: Sequence[Path], precision: str = "float32") -> list[Comparison]:
    """Compare runs, sweeps or folders with logits.npz (a run's test/), in one precision."""
    measure = partial(measure_folder, precision=precision)

    def of_run(run: Run[Task1Settings]) -> Measured:
        return measure(run.folder / "test", run=run.folder.name, seed=run.settings.seed)

    return compare_paths(paths, lambda folder: open_run(folder, Task1Settings), of_run, measure)


def measure_folder(folder: Path, precision: str, run: str = "", seed: int | None = None) -> Measured:
    """Accuracies of the logits in a folder: logits of each precision, target and filename.

    Raises:
        UserError: if there are none.
    """
    path = folder / LOGITS
    if not path.is_file():
        raise UserError(f"{folder} has no {LOGITS}; give a run, a sweep, or the folder test/ of a run.")
    with np.load(path) as content:
        if precision not in content:
            raise UserError(f"{path} has no {precision}; its network was not tested in that precision.")
        names, target = content["filename"].tolist(), content["target"]
        predicted = content[precision].argmax(axis=1)
    matches = [re.match(NAME_PATTERN, name) for name in names]
    devices = [match["device"] if match else "" for match in matches]
    segments = [re.sub(r"-\d-[a-z0-9]+\.wav$", "", name) for name in names]
    draws = accuracy_draws(predicted, target, devices, segments)
    evaluation = folder / "evaluation.json"
    made_up = evaluation.is_file() and read_json(evaluation, "test the run again").get("made_up", False)
    figures = {"macro accuracy": draws["macro accuracy"]}
    figures |= {f"devices {name}": draws[f"group {name}"] for name in DEVICE_GROUPS}
    parts = {
        "accuracy of each class": {name: draws[f"class {name}"] for name in CLASSES},
        "accuracy on each device": {name: draws[f"device {name}"] for name in DEVICES},
    }
    counted = f"{len(set(segments)):,} recordings"
    return Measured(run or str(folder), seed, {"test": names}, counted, figures, parts, bool(made_up))

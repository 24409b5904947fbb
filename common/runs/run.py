"""A run: its folder, settings and files, the records of its finished stages, and the time that it still takes."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from common.data.files import compute_sha256, read_json
from common.errors import UserError
from common.runs.folder import SETTINGS_FILE, refuse_no_run
from common.settings import AnySettings, Settings, changed_settings, load_settings, plain_settings

RECORD = "stage.json"
"""Name of the file that each finished stage leaves in its folder."""


@dataclass
class Run(Generic[AnySettings]):
    """A run folder and the settings that fill it.

    folder: has a folder for each stage.
    settings: of the whole run.
    notes: facts that a stage adds to its record, such as {"energy_kwh": 0.02}.
    """

    folder: Path
    settings: AnySettings
    notes: dict[str, Any] = field(default_factory=dict)

    def files(self, pattern: str) -> list[Path]:
        """Files of the run that a pattern such as "teachers/*/best.ckpt" names, sorted.

        Raises:
            UserError: there is none.
        """
        paths = sorted(self.folder.glob(pattern))
        if not paths:
            raise UserError(f"{self.folder} has no {pattern}; finish its earlier stages with --resume {self.folder}.")
        return paths

    def checkpoint(self, *names: str) -> Path:
        """The first of these files, such as "train/best.ckpt" or "train/last.ckpt", that exists.

        Raises:
            UserError: there is none.
        """
        paths = [self.folder / name for name in names]
        for path in paths:
            if path.is_file():
                return path
        raise UserError(
            f"{self.folder} is not trained yet: {paths[-1]} is missing. Finish it with --resume {self.folder}."
        )

    def read_evaluation(self, stage: str = "test") -> dict[str, Any]:
        """The content of a stage's evaluation.json.

        Raises:
            UserError: if the stage is not finished, or the file is not as its stage wrote it.
        """
        record, path = read_record(self.folder, stage), self.folder / stage / "evaluation.json"
        remedy = f"write it again with --resume {self.folder} --redo {stage}"
        scores = read_json(path, remedy)
        if record.get("evaluation_sha256") not in (None, compute_sha256(path)):
            raise UserError(f"{path} was changed after its stage wrote it; {remedy}.")
        return scores


def open_run(folder: Path, settings_class: type[AnySettings]) -> Run[AnySettings]:
    """The run in a folder.

    Raises:
        UserError: if there is none, it is one of another task, or its settings differ from its finished stages.
    """
    folder = Path(folder)
    refuse_no_run(folder)
    path, records = folder / SETTINGS_FILE, sorted(folder.glob(f"*/{RECORD}"))
    task = str(read_record(folder, records[0].parent.name).get("package", "")).partition(".")[0] if records else ""
    if task and task != settings_class.__module__.partition(".")[0]:
        raise UserError(f"{folder} is a run of {task}; use the verbs of `python -m {task}`.")
    settings = load_settings(settings_class, path)
    for record_path in records:
        stage = record_path.parent.name
        used = read_record(folder, stage)["settings"]
        changed = changed_settings(used, setting_values(settings, used))
        # Settings that came with a later version of the kit are in no earlier record.
        changed = [change for change in changed if ": (none) -> " not in change]
        if changed:
            raise UserError(
                f"{path} was changed after the stage {stage} ran: {', '.join(changed)}. Change it back, or run the "
                f"stage again with --resume {folder} --redo {stage}."
            )
    return Run(folder, settings)


def read_record(run_folder: Path, stage: str) -> dict[str, Any]:
    """The record of a finished stage: settings, code, started, seconds, energy_kwh (None when not measured), inputs.

    Raises:
        UserError: the stage is not finished.
    """
    record = read_stage_file(run_folder / stage / RECORD)
    if record is None:
        raise UserError(f"{run_folder} has no finished stage {stage}; finish it with --resume {run_folder}.")
    return record


def read_stage_file(path: Path) -> dict[str, Any] | None:
    """The record of a stage, with its settings; None where there is none."""
    if not path.exists():
        return None
    return read_json(path, "remove it to run its stage again", {"settings": dict})


def is_done(run: Run[Any], stage: str) -> bool:
    """Whether a stage is finished."""
    return (run.folder / stage / RECORD).is_file()


def setting_values(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The plain values of dotted names; None where there is none."""
    plain, values = plain_settings(settings), {}
    for name in names:
        value: Any = plain
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        values[name] = value
    return values


def seconds_before(record: Path, settings: Mapping[str, Any]) -> float | None:
    """Seconds that a stage took in a run beside this one with these settings, apart from the seed; None without one.

    Args:
        record: of the stage in this run, whether it is finished or not.
        settings: that the stage uses.
    """
    run = record.parent.parent
    for path in run.parent.glob(f"*/{record.relative_to(run)}"):
        with suppress(UserError, KeyError):
            found = read_json(path, "", {"settings": dict})
            changed = changed_settings(found["settings"], dict(settings))
            if not found["interrupted_before"] and all(change.startswith("seed: ") for change in changed):
                return float(found["seconds"])
    return None


def run_clock(stage: float | None, later: Iterable[float | None]) -> Callable[[float], float]:
    """From seconds left of a step to those of the run; as many where the length of a later stage is not known.

    Args:
        stage: seconds that the stage takes as a whole, None if unknown. later: those of the stages after it.
    """
    started, after = time.monotonic(), list(later)

    def left(of_step: float) -> float:
        known = [seconds for seconds in after if seconds is not None]
        of_stage = max(of_step, (stage or 0.0) - (time.monotonic() - started))
        return of_stage + sum(known) if len(known) == len(after) else of_step

    return left

"""The model of a run, whatever task trained it.

The record of a stage names the package of the run's settings. That package, or one above it, has a module `as_model`
with `load_run(folder) -> AudioModel`, and `load_embedder(folder)` where a file is not embedded by that model alone.
`common` imports no task: the module is imported by the name in the record.
"""

import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.models.audio_model import AudioModel
from common.registry.models import is_model_name
from common.runs.folder import ROOT, SETTINGS_FILE, refuse_sweep
from common.runs.run import RECORD, read_record
from common.settings import RunSettings, load_settings


def names_a_folder(name: str) -> bool:
    """Whether a name is a folder; names of the registry go first."""
    return not is_model_name(name) and Path(name).is_dir()


def load_run(folder: Path) -> AudioModel:
    """The model of a finished run, or of one of its networks (RUN/train/fold_1), in evaluation mode.

    Raises:
        UserError: if the folder is no run, is not finished, or its task has no model of sound alone.
    """
    return run_module(folder).load_run(folder)


def run_module(folder: Path) -> Any:
    """The module `as_model` of the package that trained a run."""
    place = next((place for place in (folder, *folder.parents[:2]) if (place / SETTINGS_FILE).is_file()), None)
    if place is None:
        refuse_sweep(folder)
        raise UserError(f"{folder} is no run: there is no {SETTINGS_FILE} in it or in the folders above it.")
    records = sorted(place.glob(f"*/{RECORD}"))
    if not records:
        raise UserError(f"{place} is not trained yet; finish it with `train --resume {place}`.")
    package = str(read_record(place, records[0].parent.name).get("package") or _find_package(place))
    names = package.split(".") if re.fullmatch(r"\w+(\.\w+)*", package) else []
    for count in range(len(names), 0, -1):
        if ROOT.joinpath(*names[:count], "as_model.py").is_file():
            return import_module(".".join([*names[:count], "as_model"]))
    raise UserError(f"{place} was trained by {package}, which is no task of this kit.")


def _find_package(run: Path) -> str:
    """The package with settings that fit a run, for runs of earlier versions: their records name none."""
    for path in (path for face in ROOT.glob("*/__init__.py") for path in face.parent.rglob("settings.py")):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        module = import_module(f"{package}.settings")
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, RunSettings) and found.__module__ == module.__name__:
                with suppress(UserError):
                    load_settings(found, run / SETTINGS_FILE)
                    return package
    raise UserError(f"{run / SETTINGS_FILE} fits no task of this version of the kit; train it under another name.")

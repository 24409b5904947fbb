"""The two kinds of run: text-to-audio retrieval, and query by vocal imitation. No torch here."""

from pathlib import Path

from common.runs import run
from common.runs.folder import SETTINGS_FILE
from common.runs.run import Run
from common.settings.yaml_file import read_yaml
from retrieval.imitation.settings import ImitationSettings
from retrieval.settings import RetrievalSettings


def open_run(folder: Path) -> Run[RetrievalSettings] | Run[ImitationSettings]:
    """The run in a folder, of text-to-audio retrieval or of vocal imitation.

    Raises:
        UserError: if there is none, or it is one of another task.
    """
    path = folder / SETTINGS_FILE
    data = read_yaml(path).data if path.is_file() else None
    if isinstance(data, dict) and data.get("kind") == "imitation":
        return run.open_run(folder, ImitationSettings)
    return run.open_run(folder, RetrievalSettings)

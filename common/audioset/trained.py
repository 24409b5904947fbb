"""Networks of finished runs of `pretrain` and `finetune`, for use on other recordings."""

from pathlib import Path

from common.audioset.evaluate import read_evaluation
from common.audioset.finetune import SPLIT
from common.audioset.recipe import WEIGHTS
from common.audioset.settings import FineTuneSettings, PretrainSettings, TaggingSettings
from common.audioset.train import load_trained
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.runs.folder import SETTINGS_FILE
from common.runs.stages import open_run


def find_run(folder: Path) -> Path | None:
    """The run that a folder is, or is a part of (RUN/train/fold_1); None where it is none."""
    return next((place for place in (folder, *folder.parents[:2]) if (place / SETTINGS_FILE).is_file()), None)


def load_run(folder: Path) -> AudioModel:
    """The model of a finished run in evaluation mode, with the classes that it learned.

    Args:
        folder: of the run; of one that has several folds, that of one of its networks, RUN/train/fold_1.

    Raises:
        UserError: if it is no such run, is not finished, or has several networks.
    """
    run = find_run(folder)
    if run is None:
        raise UserError(f"{folder} is no run: neither it nor what it lies in has a {SETTINGS_FILE}.")
    labels = read_evaluation(run)["labels"]
    places = [folder, folder / "train", folder / "train" / SPLIT]
    weights = next((place / WEIGHTS for place in places if (place / WEIGHTS).is_file()), None)
    if weights is None:
        networks = sorted(path.parent for path in (run / "train").glob(f"*/{WEIGHTS}"))
        if not networks:
            raise UserError(f"{run} has no {WEIGHTS} in train/; it is no run of `pretrain` or `finetune`.")
        raise UserError(f"{run} has {len(networks)} networks, one for each fold; name one, such as {networks[0]}.")
    kind = PretrainSettings if weights.parent == run / "train" else FineTuneSettings
    settings = open_run(run, kind).settings
    assert isinstance(settings, TaggingSettings)
    return load_trained(settings, labels, weights)

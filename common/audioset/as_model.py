"""The model of a run of `pretrain` or `finetune`."""

from pathlib import Path

from common.audioset.evaluate import open_tagging_run
from common.audioset.finetune import SPLIT
from common.audioset.networks import load_trained
from common.audioset.recipe import WEIGHTS
from common.audioset.settings import Objective
from common.errors import UserError
from common.models.audio_model import AudioModel
from common.runs.folder import SETTINGS_FILE


def load_run(folder: Path) -> AudioModel:
    """The network of a finished run, or one of its networks (RUN/train/fold_1), in evaluation mode.

    Raises:
        UserError: if the run is not finished, or has several networks.
    """
    run = open_tagging_run(next(place for place in (folder, *folder.parents) if (place / SETTINGS_FILE).is_file()))
    places = [folder, folder / "train", folder / "train" / SPLIT]
    weights = next((place / WEIGHTS for place in places if (place / WEIGHTS).is_file()), None)
    if weights is None:
        networks = sorted(path.parent for path in (run.folder / "train").glob(f"*/{WEIGHTS}"))
        if len(networks) > 1:
            raise UserError(
                f"{run.folder} has {len(networks)} networks, one for each fold; name one, such as {networks[0]}."
            )
        weights = run.checkpoint(f"train/{WEIGHTS}")
    scores = run.read_evaluation()
    objective: Objective = "one_label" if "accuracy" in scores else "several_labels"
    return load_trained(run.settings, scores["labels"], weights, objective)

"""What verbs that run models refuse before torch is imported."""

from pathlib import Path

from common.data.files import refuse_target
from common.errors import UserError, unknown
from common.inference.hear_names import LIKE_PUBLISHED, parse_name
from common.registry.models import find_architecture, is_model_name, list_models


def refuse_early(model: str, *paths: Path, hear: bool = False, out: Path | None = None) -> None:
    """Refuse unknown models, a call without any existing file, or an impossible `out`, before torch is imported."""
    place = Path(model)
    if not is_model_name(model) and (place.is_file() or ("/" in model and not place.exists())):
        found = "is a file" if place.is_file() else "does not exist"
        raise UserError(f"{model} {found}; give the folder of a run, or a model that `python -m common models` lists.")
    if not is_model_name(model) and not place.exists():
        try:
            parse_name(model) if hear else find_architecture(model)
        except UserError as error:
            if not hear:
                raise
            raise unknown("model or HEAR embedding", model, [*list_models(), *LIKE_PUBLISHED]) from error
    if paths and not any(path.exists() for path in paths):
        raise UserError(f"{paths[0]} does not exist; give a file or folder that is there.")
    if out is not None:
        refuse_target(out)

"""What verbs that run models refuse before torch is imported."""

from pathlib import Path

from common.errors import UserError, unknown
from common.inference.hear_names import LIKE_PUBLISHED, parse_name
from common.registry.models import find_architecture, is_model_name, list_models


def refuse_early(model: str, *paths: Path, hear: bool = False) -> None:
    """Refuse unknown models, or a call without any existing file, before torch is imported."""
    if not is_model_name(model) and not Path(model).exists():
        try:
            parse_name(model) if hear else find_architecture(model)
        except UserError as error:
            if not hear:
                raise
            raise unknown("model or HEAR embedding", model, [*list_models(), *LIKE_PUBLISHED]) from error
    if paths and not any(path.exists() for path in paths):
        raise UserError(f"{paths[0]} does not exist; give a file or folder that is there.")

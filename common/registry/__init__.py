"""Models by name: networks, their front ends, their labels, and the weights that their authors released.

A name is an architecture (`mn10`) or an architecture with released weights (`mn10.as`); official names (`mn10_as`) are
accepted too. `common/registry/released.yaml` describes each.
"""

from typing import TYPE_CHECKING, Any

from common.registry.models import create_audio_model, create_model, list_models

if TYPE_CHECKING:
    from common.registry.weights import load_audio_model, load_released_state_dict

__all__ = ["create_audio_model", "create_model", "list_models", "load_audio_model", "load_released_state_dict"]


def __getattr__(name: str) -> Any:
    """Import functions that need torch on demand: the table of models is shown without torch."""
    if name in ("load_audio_model", "load_released_state_dict"):
        from common.registry import weights

        return getattr(weights, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")

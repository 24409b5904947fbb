"""Models by name: networks, their front ends, their labels, and the weights that their authors released.

A name is an architecture (`mn10`) or an architecture with released weights (`mn10.as`); official names (`mn10_as`) are
accepted too. `common/registry/released.yaml` describes each.
"""

from common.registry.factory import create_audio_model, create_model
from common.registry.released import list_models
from common.registry.weights import load_audio_model, load_released_state_dict

__all__ = ["create_audio_model", "create_model", "list_models", "load_audio_model", "load_released_state_dict"]

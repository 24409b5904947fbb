"""HEAR's interface, https://hearbenchmark.com: load_model and the functions that embed audio with it."""

from common.inference.hear import get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]

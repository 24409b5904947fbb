"""What is known of the models, one row each, read without torch."""

from dataclasses import asdict
from typing import Any

from common.errors import unknown
from common.models.released import Released, find_architecture, find_released, list_names


def describe_models(pattern: str = "*") -> list[dict[str, Any]]:
    """A row per architecture and per file of released weights whose name fits `pattern`.

    Raises:
        UserError: no name fits.
    """
    names = list_names(pattern)
    if not names:
        raise unknown("model", pattern, list_names())
    return [_describe(name) for name in names]


def summary_row(model: dict[str, Any]) -> dict[str, Any]:
    """The few columns that fit a terminal."""
    size = model.get("bytes")
    return {
        "name": model["name"],
        "parameters": model["parameters"],
        "million MACs": round(model["macs"] / 1e6) if model["macs"] else None,
        "labels": model["labels"],
        "weights MB": round(size / 1e6, 1) if size else None,
        "published figure": model.get("figure"),
        "licence": model.get("licence"),
    }


def _describe(name: str) -> dict[str, Any]:
    architecture = asdict(find_architecture(name))
    released = find_released(name)
    return {**architecture, **(_weights(released) if released else {}), "name": name}


def _weights(released: Released) -> dict[str, Any]:
    return {key: value for key, value in asdict(released).items() if key != "architecture"}

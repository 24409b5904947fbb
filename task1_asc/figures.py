"""Figures of tested runs as rows of tables, beside the published ones. No torch here."""

from functools import cache
from pathlib import Path
from typing import Any

from common.reports.statistics import with_interval
from common.runs.run import Run
from common.settings.yaml_file import read_yaml
from task1_asc.data.tau2022 import CLASSES, DEVICES
from task1_asc.settings import Task1Settings

PRECISIONS = ("float32", "float16", "int8")


@cache
def read_published() -> dict[str, Any]:
    """Figures of the published baseline, see published.yaml."""
    return read_yaml(Path(__file__).parent / "published.yaml").data


def summary_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """The rows of `figure_rows` beside the published baseline."""
    published, subset = read_published(), run.settings.subset
    macro = f"{published['macro_accuracy'][subset]:.1f} ± {published['macro_accuracy_spread'][subset]:.1f}"
    return [*figure_rows(run.read_evaluation()), {"precision": "published", "macro accuracy in %": macro}]


def figure_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Macro accuracy, accuracy of device groups and log loss, in each precision."""
    rows = []
    for name, figures in by_network(scores).items():
        row = {"precision": name, "macro accuracy in %": percent(figures["macro_accuracy"])}
        row |= {name: percent(_interval(part)) for name, part in figures["groups"].items()}
        rows.append(row | {"log loss": f"{figures['log_loss']['value']:.3f}", "clips": figures["clips"]})
    return rows


def by_network(scores: dict[str, Any]) -> dict[str, Any]:
    """Figures of each network: each precision and, in a device-aware run, the general network."""
    found = {name: scores[name] for name in PRECISIONS if name in scores}
    return found | {f"{name}, general": own for name, own in scores.get("general", {}).items()}


def class_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """Accuracy of each class."""
    return _part_rows(run, "class_wise", CLASSES, "class")


def device_rows(run: Run[Task1Settings]) -> list[dict[str, Any]]:
    """Accuracy of each recording device."""
    return _part_rows(run, "device_wise", DEVICES, "device")


def percent(interval: dict[str, float | None]) -> str:
    """{value, low, high} to "42.4 [41.0, 43.8]"; empty without a value."""
    value, low, high = (interval[key] for key in ("value", "low", "high"))
    return "" if value is None else with_interval(value, low, high, scale=100)


def _part_rows(run: Run[Task1Settings], group: str, names: tuple[str, ...], title: str) -> list[dict[str, Any]]:
    scores, published = run.read_evaluation(), read_published()[group][run.settings.subset]
    return [
        {
            title: name,
            **{own: percent(_interval(figures[group][name])) for own, figures in by_network(scores).items()},
            "published": f"{published[number]:.1f}",
            "clips": scores["float32"][group][name]["clips"],
        }
        for number, name in enumerate(names)
    ]


def _interval(part: dict[str, Any]) -> dict[str, float | None]:
    return {"value": part["accuracy"], "low": part["accuracy_low"], "high": part["accuracy_high"]}

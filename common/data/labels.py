"""Label sets: the names of the classes in the order of a model's outputs."""

import csv
from functools import lru_cache
from pathlib import Path

from common.errors import unknown

TABLES = Path(__file__).parent / "label_tables"

TAU_SCENES = (
    "airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
    "street_traffic", "tram",
)  # fmt: skip

DESED = (
    "Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush", "Frying", "Running_water",
    "Speech", "Vacuum_cleaner",
)  # fmt: skip

MAESTRO = (
    "cutlery and dishes", "furniture dragging", "people talking", "children voices", "coffee machine", "footsteps",
    "large_vehicle", "car", "brakes_squeaking", "cash register beeping", "announcement", "shopping cart",
    "metro leaving", "metro approaching", "door opens/closes", "wind_blowing", "birds_singing",
)  # fmt: skip


@lru_cache
def label_table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of label_tables/NAME.csv: `mid`, `name`, for audioset_strong also `train` and `eval` ("0", "1")."""
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


@lru_cache
def label_set(name: str) -> tuple[str, ...]:
    """Class names in the order of the outputs.

    audioset: 527. audioset_strong: 447 with training clips, by name, the outputs of the frame models.
    audioset_strong_all: 456. audioset_strong_eval: 416. audioset_strong_common: the 407 that are scored.
    tau_scenes: 10. desed: 10. maestro: 17. desed_maestro: 27, the outputs of the Task 4 systems of 2024.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if name not in _SETS:
        raise unknown("label set", name, _SETS)
    kind, columns = _SETS[name]
    if not isinstance(kind, str):
        return kind
    return tuple(row["name"] for row in label_table(kind) if all(row[column] == "1" for column in columns))


_SETS: dict[str, tuple[str | tuple[str, ...], tuple[str, ...]]] = {
    "audioset": ("audioset", ()),
    "audioset_strong": ("audioset_strong", ("train",)),
    "audioset_strong_all": ("audioset_strong", ()),
    "audioset_strong_eval": ("audioset_strong", ("eval",)),
    "audioset_strong_common": ("audioset_strong", ("train", "eval")),
    "tau_scenes": (TAU_SCENES, ()),
    "desed": (DESED, ()),
    "maestro": (MAESTRO, ()),
    "desed_maestro": (DESED + MAESTRO, ()),
}

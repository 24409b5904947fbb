"""Classes of DESED and MAESTRO Real, which of them clips are labelled with, and the grid of 64 ms frames. No numpy."""

from typing import Literal

from pydantic import field_validator

from common.data.labels import DESED, MAESTRO
from common.settings import Field, Settings

DESED_CLASSES = DESED
MAESTRO_CLASSES = MAESTRO
CLASSES = DESED_CLASSES + MAESTRO_CLASSES
MAESTRO_EVALUATED = (
    "birds_singing",
    "car",
    "people talking",
    "footsteps",
    "children voices",
    "wind_blowing",
    "brakes_squeaking",
    "large_vehicle",
    "cutlery and dishes",
    "metro approaching",
    "metro leaving",
)
"""Classes of MAESTRO that the challenge scores."""
MAESTRO_SYNTH_CLASSES = ("car_horn", "children_voices", "engine_idling", "siren", "street_music", "dog_bark")
MAESTRO_TO_DESED = {
    "people talking": "Speech",
    "children voices": "Speech",
    "announcement": "Speech",
    "cutlery and dishes": "Dishes",
    "dog_bark": "Dog",
}
DESED_TO_MAESTRO = {"Dishes": "cutlery and dishes", "Speech": "people talking"}

SAMPLE_RATE = 16_000
CLIP_SECONDS = 10.0
CLIP_SAMPLES = 160_000
HOP_LENGTH = 256
POOLING = 4
FRAME_SECONDS = HOP_LENGTH * POOLING / SAMPLE_RATE
NUM_FRAMES = CLIP_SAMPLES // HOP_LENGTH // POOLING

Domain = Literal["desed", "maestro", "own"]


class LabelSettings(Settings):
    """Which classes a clip is labelled with, and how events become targets."""

    overlap: Literal["maximum", "last"] = "maximum"
    """Where events of one class overlap within a frame: the larger confidence, or the later row as in the official code
    (two MAESTRO classes that both count as Speech, or neighbouring seconds that share a frame)."""
    maestro_to_desed: bool = True
    """People talking, children voices and announcement also count as Speech, cutlery and dishes also as Dishes."""
    desed_to_maestro: bool = False
    """Dishes also counts as cutlery and dishes, Speech also as people talking (the winner of 2024)."""
    dog_in_maestro: bool = False
    """Dog is absent in MAESTRO clips, as in the baseline, though nobody annotated dogs there."""
    classes: list[str] = Field(list(CLASSES), min_length=1)
    """Classes of the system, in order: the 27 of 2024, the 10 of DESED, or those of own data in the same layout."""

    @field_validator("classes")
    @classmethod
    def _no_doubles(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError(f"{next(name for name in value if value.count(name) > 1)} is named twice")
        return value

"""The Broad Sound Taxonomy: 5 top-level and 23 second-level classes."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, unknown

CLASSES = {
    "m-sp": "Music / Solo percussion",
    "m-si": "Music / Solo instrument",
    "m-m": "Music / Multiple instruments",
    "is-p": "Instrument samples / Percussion",
    "is-s": "Instrument samples / String",
    "is-w": "Instrument samples / Wind",
    "is-k": "Instrument samples / Piano, keyboard instruments",
    "is-e": "Instrument samples / Synths, electronic",
    "sp-s": "Speech / Solo speech",
    "sp-c": "Speech / Conversation, crowd",
    "sp-p": "Speech / Processed, synthetic",
    "fx-o": "Sound effects / Objects, house appliances",
    "fx-v": "Sound effects / Vehicles",
    "fx-m": "Sound effects / Other mechanisms, engines, machines",
    "fx-h": "Sound effects / Human sounds and actions",
    "fx-a": "Sound effects / Animals",
    "fx-n": "Sound effects / Natural elements and explosions",
    "fx-ex": "Sound effects / Experimental",
    "fx-el": "Sound effects / Electronic, design",
    "ss-n": "Soundscapes / Nature",
    "ss-i": "Soundscapes / Indoors",
    "ss-u": "Soundscapes / Urban",
    "ss-s": "Soundscapes / Synthetic, artificial",
}
"""Code to name, in the order of the taxonomy, which is the order of all logits; not the order of the alphabet."""
CODES = tuple(CLASSES)
TOPS = tuple(dict.fromkeys(code.partition("-")[0] for code in CODES))
OTHERS = tuple(f"{top}-other" for top in TOPS)
"""Classes of BSD35k-CS that are neither learnt nor predicted."""
TOP_OF = np.array([TOPS.index(code.partition("-")[0]) for code in CODES])
"""(23,) index of the top level of each class."""


def as_indices(codes: Iterable[str], kind: str) -> NDArray[np.int64]:
    """Indices of codes in the taxonomy.

    Args:
        kind: what the codes are, such as "predicted class", for the message.

    Raises:
        UserError: if a code is none of the 23.
    """
    place = {code: index for index, code in enumerate(CODES)}
    codes = list(codes)
    for code in codes:
        if code in OTHERS:
            raise UserError(f"{code} is no valid {kind}: of each top level, only the {len(CODES)} classes count.")
        if code not in place:
            raise unknown(kind, str(code), CODES)
    return np.array([place[code] for code in codes], dtype=np.int64)


def as_codes(indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
    """Codes of indices in the taxonomy."""
    return [CODES[index] for index in indices]

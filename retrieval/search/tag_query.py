"""Words as tags of a classifier: "rain" means the tags Rain and Rain on surface."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError, nearest

FILLERS = {
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "from", "by", "for", "is", "are", "some",
    "someone", "something", "sound", "sounds", "noise", "noises",
}  # fmt: skip
"""Words that name no sound, left out of a query that has others."""
FITS = 0.03
"""Score from which a tag counts as heard. Of 327 clips (ESC-10, part of FSD50K) tagged by mn04.as, this limit gives the
highest F1 on both: see tests/benchmarks/trial_search.py."""
PIECE = 16384


@dataclass(frozen=True)
class TagQuery:
    """A text as tags.

    groups: for each word, the numbers of its tags.
    unknown: words that no tag has.
    """

    groups: list[list[int]]
    unknown: list[str]

    def names(self, labels: Sequence[str]) -> str:
        """The tags in words."""
        return " and ".join(dict.fromkeys(" or ".join(labels[tag] for tag in group) for group in self.groups))

    def score(self, tags: NDArray[np.float16]) -> Tensor:
        """Scores (rows,) 0..1: the highest of each word's tags, and of these the mean."""
        parts = [np.empty(0, np.float32)]
        for start in range(0, len(tags), PIECE):
            piece = tags[start : start + PIECE]
            highest = [piece[:, group].max(axis=1).astype(np.float32) for group in self.groups]
            parts.append(np.mean(highest, axis=0))
        return torch.from_numpy(np.concatenate(parts))


def find_tags(text: str, labels: Sequence[str]) -> TagQuery:
    """The tags that share words with a text, whatever their endings; for each word those that share most.

    >>> labels = ["Rain", "Rain on surface", "Electric guitar", "Guitar", "Dog", "Bark"]
    >>> find_tags("raining on the roof", labels).names(labels), find_tags("raining on the roof", labels).unknown
    ('Rain or Rain on surface', ['roof'])
    >>> find_tags("electric guitars", labels).names(labels)
    'Electric guitar'
    >>> find_tags("a dog barks", labels).names(labels)
    'Dog and Bark'

    Raises:
        UserError: if no tag shares a word; names the nearest tags.
    """
    words = {stem(word): word for word in split(text)}
    if set(words) - {stem(filler) for filler in FILLERS}:
        words = {key: word for key, word in words.items() if word not in FILLERS}
    of_label = [{stem(word) for word in split(label)} for label in labels]
    groups, unknown = [], []
    for key, word in words.items():
        shared = [len(own & set(words)) if key in own else 0 for own in of_label]
        most = max(shared, default=0)
        groups.append([tag for tag, count in enumerate(shared) if count == most]) if most else unknown.append(word)
    if not groups:
        known = {word for label in labels for word in split(label)} - FILLERS
        near = ", ".join(found for word in unknown for found in nearest(word, sorted(known))) or "none"
        raise UserError(
            f"Nothing fits {text!r}: no tag has a word of it, and this index has no text model; words near it: {near}."
        )
    return TagQuery(groups, unknown)


def split(text: str) -> list[str]:
    """Words in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def stem(word: str) -> str:
    """A word without its usual English ending: barks, barking and bark are one."""
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) + len(instead) >= 3:
            word = word[: -len(ending)] + instead
            break
    word = word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl" else word
    return word[:-1] if word.endswith("e") and len(word) > 3 else word

"""What the made-up data sets share: a folder with its marker, tables, clips and names of videos."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from numpy.random import Generator

from common.data.audio import write_wav
from common.data.files import atomic_write, claim_folder, finish_folder

LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True)
class DataSet:
    """A made-up data set in a folder of its own.

    `count` gives names and counts of the products from the number of clips; `write` takes the folder, the number of
    clips, the counts and the seed.
    """

    task: str
    default_clips: int
    count: Callable[[int], dict[str, int]]
    write: Callable[[Path, int, dict[str, int], int], None]
    fewest_clips: int = 1

    def make(self, root: Path, clips: int | None, seed: int) -> dict[str, int]:
        """Write the data set unless it exists; see `synthesize`."""
        clips = max(self.fewest_clips, self.default_clips if clips is None else clips)
        made_from = {"task": self.task, "clips": clips, "seed": seed}
        counts = self.count(clips)
        if not claim_folder(root, made_from):
            self.write(root, clips, counts, seed)
            finish_folder(root, made_from, counts)
        return counts


def write_rows(
    path: Path, rows: Iterable[Sequence[object]], separator: str = "\t", line_end: str = "\n", encoding: str = "utf-8"
) -> None:
    """Write a table; cells that hold a separator, a quote or a line end are quoted."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=line_end).writerows(rows)
    with atomic_write(path, "wb") as file:
        file.write(text.getvalue().encode(encoding))


write_clip = partial(write_wav, subtype="PCM_16")
"""Write a 16-bit wav file: path, waveform, sample rate."""


def draw_video(random: Generator) -> str:
    """Eleven characters, as in the name of a YouTube video."""
    return "".join(random.choice(LETTERS, 11))

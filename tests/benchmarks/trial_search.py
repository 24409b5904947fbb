"""From which score a tag is heard, and how often search says rightly that nothing fits.

    python -m tests.benchmarks.trial_search --data SHARED/data --weights mn04_as_mAP_432.pt

Tags: ESC-10 (273 clips, the AudioSet classes of each of its ten) and 54 clips of FSD50K with their labels; precision,
recall and F1 of a limit on the scores of mn04.as. Example: each class of ESC-10 in turn is left out; half of the
other clips are indexed, the rest belongs (the wrong alarm should be 5 %), the class that is left out does not.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval.search.index import ALPHA
from retrieval.search.searcher import Rows, Searcher, load_audio_searcher
from tests.support.esc10 import ESC10

LIMITS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)


def embed(searcher: Searcher, folder: Path, table: str) -> tuple[pd.DataFrame, Rows]:
    """The table of a pack and its clips as rows."""
    clips = pd.read_csv(folder / table)
    return clips, searcher.embed_rows([folder / "audio" / name for name in clips["filename"]])


def print_limits(name: str, scores: NDArray, true: NDArray) -> None:
    """Precision, recall and F1 over all pairs of clip and class."""
    for limit in LIMITS:
        heard = scores >= limit
        hits = (heard & true).sum()
        precision, recall, f1 = hits / max(1, heard.sum()), hits / true.sum(), 2 * hits / (heard.sum() + true.sum())
        print(f"{name:12s} limit {limit:.2f}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")


def nothing_fits(clips: pd.DataFrame, vectors: NDArray) -> None:
    """Share of the queries of which search says that nothing fits: those that belong, those that do not."""
    similarity, rng, found = vectors @ vectors.T, np.random.default_rng(0), []
    for name in ESC10:
        absent = np.flatnonzero(clips["category"] == name)
        indexed, belong = np.array_split(rng.permutation(np.flatnonzero(clips["category"] != name)), 2)
        among = similarity[np.ix_(indexed, indexed)] - 2 * np.eye(len(indexed))
        limit = np.sort(among.max(axis=1))[int(ALPHA * (len(indexed) + 1)) - 1]
        found.append([(similarity[np.ix_(some, indexed)].max(axis=1) < limit).mean() for some in (belong, absent)])
        print(
            f"{name:15s} limit {limit:.3f}: {found[-1][0]:.3f} of those that belong, {found[-1][1]:.3f} of the others"
        )
    print("mean: {:.3f} of those that belong, {:.3f} of the others".format(*np.mean(found, axis=0)))


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with esc10 and fsd50k_mini")
    parser.add_argument("--weights", type=Path, required=True, help="weights of mn04.as; its folder holds the classes")
    arguments = parser.parse_args()
    searcher = load_audio_searcher("mn04.as", arguments.weights)
    labels = list(searcher.model.labels)  # type: ignore[union-attr,arg-type]
    clips, rows = embed(searcher, arguments.data / "esc10", "esc10.csv")
    assert rows.tags is not None
    of_class = [rows.tags[:, [labels.index(tag) for tag in tags]].max(axis=1) for tags in ESC10.values()]
    print_limits("ESC-10", np.stack(of_class, axis=1), np.stack([clips["category"] == name for name in ESC10], axis=1))
    nothing_fits(clips, rows.vectors)
    clips, rows = embed(searcher, arguments.data / "fsd50k_mini", "clips.csv")
    assert rows.tags is not None
    number = {
        mid: row for row, mid in enumerate(pd.read_csv(arguments.weights.parent / "class_labels_indices.csv")["mid"])
    }
    own = [set(mids.split(",")) for mids in clips["mids"]]
    mids = sorted(set.union(*own) & number.keys())
    true = np.array([[mid in names for mid in mids] for names in own])
    print_limits("FSD50K", rows.tags[:, [number[mid] for mid in mids]], true)


if __name__ == "__main__":
    main()

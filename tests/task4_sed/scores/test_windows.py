"""Scores of windows joined to those of recordings."""

import numpy as np
import pytest

from task4_sed.scores.store import ScoreStore, ScoreWriter
from task4_sed.scores.windows import join_windows


def test_each_half_of_an_overlap_is_of_the_window_that_it_is_deeper_inside_of(tmp_path):
    path = tmp_path / "scores.h5"
    with ScoreWriter(path, ["x"], dtype="float32") as writer:
        names = ["r-1-000800-001450", "r-1-000000-001000", "s-000000-000300"]
        values = np.stack([np.full((156, 1), 2.0), np.full((156, 1), 1.0), np.full((156, 1), 3.0)])
        writer.write(names, values, [6.5, 10.0, 3.0])
    join_windows(path)
    store = ScoreStore(path)
    assert sorted(store.filenames) == ["r-1", "s"] and store.num_frames == 125 + 156
    assert (store.end_of("r-1"), store.end_of("s")) == (14.5, 3.0)
    joined = store["r-1"][:, 0]
    assert np.flatnonzero(np.diff(joined)).tolist() == [139], "half of the 31 frames of overlap from frame 125 on"
    assert joined[0] == 1 and joined[-1] == 2 and store["s"][:47] == pytest.approx(3)

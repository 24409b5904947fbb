"""Events of frame scores against their definition, frame by frame, wherever the blocks are cut."""

import numpy as np
import pytest
import torch

from common.inference.events import Event, EventFinder

FRAME, THRESHOLD = 0.5, 0.4


def defined_events(scores: np.ndarray, median: int, duration: float) -> list[tuple[int, float, float, float]]:
    """Class, onset, offset and mean score of every run of frames above the threshold, one frame at a time."""
    half = median // 2
    padded = np.concatenate([scores[:1].repeat(half, 0), scores, scores[-1:].repeat(half, 0)])
    filtered = np.stack([np.median(padded[first : first + median], axis=0) for first in range(len(scores))])
    found = []
    for index in range(scores.shape[1]):
        first = None
        for frame in range(len(scores) + 1):
            active = frame < len(scores) and filtered[frame, index] > THRESHOLD
            if active and first is None:
                first = frame
            if not active and first is not None:
                end = duration if frame == len(scores) else min(FRAME * frame, duration)
                found.append((index, FRAME * first, end, float(filtered[first:frame, index].mean())))
                first = None
    return sorted(found)


def found_events(scores: np.ndarray, median: int, duration: float, cuts: list[int]) -> list[Event]:
    finder = EventFinder(FRAME, THRESHOLD, median)
    early = [event for block in np.split(scores, cuts) for event in finder.add(torch.from_numpy(block))]
    return early + finder.finish(duration)


@pytest.mark.parametrize("median", [1, 3, 5])
@pytest.mark.parametrize("seed", range(12))
def test_events_are_the_runs_above_the_threshold_wherever_blocks_are_cut(median, seed):
    random = np.random.default_rng(seed)
    frames = int(random.integers(1, 30))
    scores = random.choice([0.1, 0.4, 0.6, 0.9], size=(frames, 3)).astype(np.float32)
    duration = FRAME * frames - float(random.choice([0.0, 0.2, 0.49]))  # the last frame may reach beyond the end
    cuts = sorted(random.integers(0, frames + 1, size=random.integers(0, 6)).tolist())
    found = found_events(scores, median, duration, cuts)
    as_tuples = sorted((event.index, event.onset, event.offset, event.score) for event in found)
    expected = defined_events(scores, median, duration)
    assert [event[:3] for event in as_tuples] == [event[:3] for event in expected]
    np.testing.assert_allclose([event[3] for event in as_tuples], [event[3] for event in expected], rtol=1e-5)


def test_an_event_that_ended_in_the_last_frames_does_not_outlast_the_recording():
    scores = torch.tensor([[0.9], [0.9], [0.9], [0.0]])
    finder = EventFinder(FRAME, THRESHOLD, 3)
    events = [*finder.add(scores), *finder.finish(1.3)]
    assert [(event.onset, event.offset) for event in events] == [(0.0, 1.3)]
    assert finder.finish(1.3) == []


@pytest.mark.parametrize("median", [1, 5])
def test_a_recording_without_frames_has_no_events(median):
    assert EventFinder(FRAME, THRESHOLD, median).finish(1.0) == []


def test_nothing_gives_no_events_and_an_even_filter_is_refused():
    finder = EventFinder(FRAME)
    assert finder.add(torch.zeros(0, 3)) == [] and finder.finish(0.0) == []
    for median in (0, 2, -1):
        with pytest.raises(ValueError, match="an odd number of frames"):
            EventFinder(FRAME, median=median)

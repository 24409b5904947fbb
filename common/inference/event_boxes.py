"""Change-point event boxes (cSEBBs): one box with one confidence per event candidate, in place of frame scores.

Ebbers et al., "Sound Event Bounding Boxes" (Interspeech 2024). Own implementation from the definition: a step filter
finds where the score rises and falls, candidates with a shallow gap between them are joined, and the confidence of a
box is its mean score. Boxes do not get longer as the threshold falls: extent and confidence are independent.
"""

from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.inference.compiled import compiled

LEVEL_OFFSET = 1e-3
"""Added to both sides of the relative threshold, so that the ratio of near-silent gaps stays finite."""


class BoxSettings(NamedTuple):
    """Length of the step filter in seconds, and two merge thresholds.

    A gap between candidates disappears if it is shallower than both thresholds: absolute, a difference of scores, and
    relative, a ratio; infinity switches one off.
    """

    step_filter_length: float = 0.5
    merge_threshold_abs: float = 1.0
    merge_threshold_rel: float = 2.0


class Candidates(NamedTuple):
    """Events of one class before joining, grouped by clip.

    starts: (clips + 1,). onsets, offsets: seconds. highest: largest score inside. gap_lowest: smallest score of the gap
    in front. integral: of the score from the clip's start to onset and offset, (events, 2).
    """

    starts: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray
    highest: np.ndarray
    gap_lowest: np.ndarray
    integral: np.ndarray


def find_candidates(
    column: np.ndarray, starts: np.ndarray, borders: np.ndarray, step_filter_length: float
) -> Candidates:
    """Event candidates of one class: where the step filter turns from rising to falling, and back.

    Args:
        column: (frames,) float64 scores of all clips, one after another.
        starts: (clips + 1,), first frame of each clip.
        borders: (frames + clips,) seconds, frame borders of each clip, both ends included.
        step_filter_length: seconds.
    """
    if step_filter_length <= 0:
        raise UserError(f"The step filter length must be positive, not {step_filter_length:g} s.")
    return Candidates(*_find_candidates(column, starts, borders, float(step_filter_length)))


def join_candidates(found: Candidates, settings: BoxSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """starts, onsets, offsets and confidence of boxes without shallow gaps; each gap is judged before any joining."""
    return _join(*found, float(settings.merge_threshold_abs), float(settings.merge_threshold_rel))


def curve_boxes(scores: np.ndarray, borders: np.ndarray, settings: BoxSettings) -> np.ndarray:
    """Boxes (n, 3) onset, offset, confidence of one recording's scores (frames,) with frame borders (frames + 1,)."""
    scores, borders = np.ascontiguousarray(scores, np.float64), np.ascontiguousarray(borders, np.float64)
    found = find_candidates(scores, np.array([0, len(scores)]), borders, settings.step_filter_length)
    return np.stack(join_candidates(found, settings)[1:], axis=1)


@compiled
def _find_candidates(column: np.ndarray, starts: np.ndarray, borders: np.ndarray, length: float) -> tuple:
    half = length / 2
    num_clips = len(starts) - 1
    found_starts = np.zeros(num_clips + 1, np.int64)
    num_corners_max = 3 * (len(column) + num_clips)
    onsets, offsets = np.empty(num_corners_max // 2 + 1), np.empty(num_corners_max // 2 + 1)
    count = 0
    for clip in range(num_clips):
        edges = borders[starts[clip] + clip : starts[clip + 1] + clip + 1]
        integral = _integral(column[starts[clip] : starts[clip + 1]], edges)
        corners = _corners(edges, half)
        inside = False
        before, two_before = 0.0, 0.0
        left = middle = right = 0
        for corner in range(len(corners)):
            now, left, middle, right = _step(corners[corner], half, edges, integral, left, middle, right)
            if corner > 0 and not inside and now <= before and (corner == 1 or before > two_before):
                onsets[count] = corners[corner - 1]
                inside = True
            elif inside and now > before and before <= two_before:
                offsets[count] = corners[corner - 1]
                count += 1
                inside = False
            two_before, before = before, now
        if inside:
            offsets[count] = edges[-1]
            count += 1
        found_starts[clip + 1] = count
    onsets, offsets = onsets[:count].copy(), offsets[:count].copy()
    highest, gap_lowest, integrals = np.empty(count), np.empty(count), np.empty((count, 2))
    for clip in range(num_clips):
        edges = borders[starts[clip] + clip : starts[clip + 1] + clip + 1]
        scores = column[starts[clip] : starts[clip + 1]]
        integral = _integral(scores, edges)
        frame = 0
        end_of_last = edges[0]
        for event in range(found_starts[clip], found_starts[clip + 1]):
            frame, gap_lowest[event], _ = _extremes(scores, edges, frame, end_of_last, onsets[event])
            frame, _, highest[event] = _extremes(scores, edges, frame, onsets[event], offsets[event])
            integrals[event, 0] = _at(onsets[event], edges, integral)
            integrals[event, 1] = _at(offsets[event], edges, integral)
            end_of_last = offsets[event]
    return found_starts, onsets, offsets, highest, gap_lowest, integrals


@compiled
def _corners(edges: np.ndarray, half: float) -> np.ndarray:
    """Where the step filter's output can change its slope: frame borders, and half a filter before and after them."""
    num = len(edges)
    corners = np.empty(3 * num)
    early, centre, late, count = 0, 0, 0, 0
    while early < num or centre < num or late < num:
        a = edges[early] - half if early < num else np.inf
        b = edges[centre] if centre < num else np.inf
        c = edges[late] + half if late < num else np.inf
        value = min(a, b, c)
        early += a == value
        centre += b == value
        late += c == value
        value = np.rint(value * 1e8) / 1e8
        if value < edges[0] or value > edges[-1] or (count and corners[count - 1] == value):
            continue
        corners[count] = value
        count += 1
    return corners[:count]


@compiled
def _integral(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Integral of the score from the start to each border."""
    integral = np.zeros(len(edges))
    for frame in range(len(scores)):
        integral[frame + 1] = integral[frame] + scores[frame] * (edges[frame + 1] - edges[frame])
    return integral


@compiled
def _step(
    time: float, half: float, edges: np.ndarray, integral: np.ndarray, left: int, middle: int, right: int
) -> tuple:
    """Mean score after `time` minus mean before, rounded so that equal scores compare equal; 0 outside the clip.

    left, middle, right: frames in which the filter's start, centre and end were found last.
    """
    lower, left = _follow(time - half, edges, integral, left)
    centre, middle = _follow(time, edges, integral, middle)
    upper, right = _follow(time + half, edges, integral, right)
    return np.rint((upper - 2 * centre + lower) / half * 1e12) / 1e12, left, middle, right


@compiled
def _follow(time: float, edges: np.ndarray, integral: np.ndarray, frame: int) -> tuple:
    """Integral up to `time`, and its frame; times rise from call to call."""
    if time <= edges[0]:
        return 0.0, frame
    if time >= edges[-1]:
        return integral[-1], frame
    while edges[frame + 1] < time:
        frame += 1
    share = (time - edges[frame]) / (edges[frame + 1] - edges[frame])
    return integral[frame] + share * (integral[frame + 1] - integral[frame]), frame


@compiled
def _at(time: float, edges: np.ndarray, integral: np.ndarray) -> float:
    return _follow(time, edges, integral, max(int(np.searchsorted(edges, time)) - 1, 0))[0]


@compiled
def _extremes(scores: np.ndarray, edges: np.ndarray, frame: int, begin: float, end: float) -> tuple:
    """Frame in which `end` lies, lowest and highest score between begin and end."""
    while frame + 1 < len(scores) and edges[frame + 1] <= begin:
        frame += 1
    lowest, highest = np.inf, -np.inf
    while True:
        if edges[frame] < end and edges[frame + 1] > begin:
            lowest, highest = min(lowest, scores[frame]), max(highest, scores[frame])
        if frame + 1 >= len(scores) or edges[frame + 1] >= end:
            return frame, lowest, highest
        frame += 1


@compiled
def _join(
    starts: np.ndarray, onsets: np.ndarray, offsets: np.ndarray, highest: np.ndarray, gap_lowest: np.ndarray,
    integral: np.ndarray, absolute: float, relative: float,
) -> tuple:  # fmt: skip
    new_starts = np.zeros(len(starts), np.int64)
    new_onsets, new_offsets = np.empty(len(onsets)), np.empty(len(onsets))
    confidence = np.empty(len(onsets))
    count = 0
    for clip in range(len(starts) - 1):
        event = starts[clip]
        while event < starts[clip + 1]:
            last = event
            while last + 1 < starts[clip + 1]:
                gap = gap_lowest[last + 1]
                peak = max(highest[last], highest[last + 1])
                if peak - gap >= absolute or (peak + LEVEL_OFFSET) / (gap + LEVEL_OFFSET) >= relative:
                    break
                last += 1
            new_onsets[count], new_offsets[count] = onsets[event], offsets[last]
            length = offsets[last] - onsets[event]
            confidence[count] = (integral[last, 1] - integral[event, 0]) / (length + 1e-6)
            count += 1
            event = last + 1
        new_starts[clip + 1] = count
    return new_starts, new_onsets[:count].copy(), new_offsets[:count].copy(), confidence[:count].copy()

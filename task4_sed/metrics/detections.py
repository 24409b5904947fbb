"""All detections of a class at all thresholds, and how their counts change from threshold to threshold.

A detection at threshold t is a run of frames with score >= t. Over all thresholds a clip has at most as many different
runs as frames, and each exists for one interval of thresholds, low < t <= high. Whether a run is a false positive or
touches another class depends on the run alone, so every count is a sum of +1 at `high` and -1 at `low`. Only for true
positives the runs that exist together matter. sed_scores_eval walks through all frames for each threshold instead;
the counts are the same (tests/test_sed_metrics.py), the work is some hundred times less.

Definitions: Bilen et al. 2020 (PSDS), Ebbers et al. 2022 (all thresholds), sed_eval (collars).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from task4_sed.metrics.evaluation_set import EvaluationSet

TRUE_POSITIVE = -2
FALSE_POSITIVE = -1
"""Kinds of a count; a kind >= 0 is a cross trigger on that class."""


@dataclass(frozen=True)
class Runs:
    """Detections of one class; run i exists for thresholds low[i] < t <= high[i]; runs are grouped by clip.

    starts: (clips + 1,). onsets, offsets: seconds.
    """

    starts: np.ndarray
    onsets: np.ndarray
    offsets: np.ndarray
    high: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class CountChanges:
    """How counts change as the threshold falls, sorted by score, highest first.

    At threshold t a count is the sum of `change` over all entries of its kind with score >= t.
    score (entries,); clip, kind, change (entries,) integers.
    """

    score: np.ndarray
    clip: np.ndarray
    kind: np.ndarray
    change: np.ndarray

    def at(self, threshold: float, kind: int, num_clips: int) -> np.ndarray:
        """(clips,) counts of the detections with score > threshold."""
        chosen = (self.kind == kind) & (self.score > threshold)
        return np.bincount(self.clip[chosen], weights=self.change[chosen], minlength=num_clips)


@dataclass(frozen=True)
class IntersectionCriteria:
    """Which detections count: dtc share of a detection inside events of its class, gtc share of an event covered,
    cttc share of a detection inside events of another class (None: cross triggers are not counted)."""

    dtc: float
    gtc: float
    cttc: float | None = None


@dataclass(frozen=True)
class Collars:
    """Allowed deviation in seconds: onset, and the larger of offset and offset_rate times the event's length."""

    onset: float = 0.2
    offset: float = 0.2
    offset_rate: float = 0.2


def class_runs(evaluation: EvaluationSet, index: int) -> Runs:
    """All detections of the class with this index in `evaluation.classes`."""
    tables = evaluation.scores
    column = tables.column(evaluation.classes[index])
    return Runs(*_find_runs(column, tables.starts, tables.borders))


def intersection_changes(
    evaluation: EvaluationSet, index: int, criteria: IntersectionCriteria, runs: Runs
) -> CountChanges:
    """True positives, false positives and cross triggers of one class by intersection with the reference."""
    cttc = -1.0 if criteria.cttc is None else criteria.cttc
    entries = _intersection_entries(
        runs.starts, runs.onsets, runs.offsets, runs.high, runs.low,
        evaluation.event_starts, evaluation.onsets, evaluation.offsets, evaluation.labels,
        index, len(evaluation.classes), criteria.dtc, criteria.gtc, cttc,
    )  # fmt: skip
    return _sorted(entries)


def collar_changes(evaluation: EvaluationSet, index: int, collars: Collars, runs: Runs) -> CountChanges:
    """True and false positives of one class by onset and offset collars, with the largest one-to-one matching."""
    starts, onsets, offsets = evaluation.events_of_class(index)
    entries = _collar_entries(
        runs.starts, runs.onsets, runs.offsets, runs.high, runs.low,
        starts, onsets, offsets, collars.onset, collars.offset, collars.offset_rate,
    )  # fmt: skip
    return _sorted(entries)


def _sorted(entries: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> CountChanges:
    score, clip, kind, change = entries
    order = np.argsort(-score, kind="stable")
    return CountChanges(score[order], clip[order], kind[order], change[order])


@njit(cache=True, nogil=True)
def _find_runs(scores, starts, borders):
    """Every maximal run of frames with score >= some threshold, by one pass with a stack of rising scores."""
    num_frames = len(scores)
    num_clips = len(starts) - 1
    run_starts = np.zeros(num_clips + 1, np.int64)
    onsets = np.empty(num_frames)
    offsets = np.empty(num_frames)
    high = np.empty(num_frames)
    low = np.empty(num_frames)
    longest = 0
    for clip in range(num_clips):
        longest = max(longest, starts[clip + 1] - starts[clip])
    stack_start = np.empty(longest + 1, np.int64)
    stack_score = np.empty(longest + 1)
    count = 0
    for clip in range(num_clips):
        first, last = starts[clip], starts[clip + 1]
        depth = 0
        for frame in range(first, last + 1):
            score = scores[frame] if frame < last else -np.inf
            left = frame
            while depth and stack_score[depth - 1] > score:
                depth -= 1
                left = stack_start[depth]
                onsets[count] = borders[left + clip]
                offsets[count] = borders[frame + clip]
                high[count] = stack_score[depth]
                low[count] = max(score, stack_score[depth - 1]) if depth else score
                count += 1
            if score > -np.inf and (depth == 0 or stack_score[depth - 1] < score):
                stack_start[depth] = left
                stack_score[depth] = score
                depth += 1
        run_starts[clip + 1] = count
    return run_starts, onsets[:count].copy(), offsets[:count].copy(), high[:count].copy(), low[:count].copy()


@njit(cache=True, nogil=True)
def _round6(seconds):
    """As numpy rounds to 6 decimals; both packages of the field compare so, or a tie would depend on the last bit."""
    return np.rint(seconds * 1e6) / 1e6


@njit(cache=True, nogil=True)
def _sort(score, kind, change, count):
    """Shell sort of parallel arrays by score, then kind; numba's own sorts take ten times longer to compile."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap:
        for i in range(gap, count):
            value, which, step = score[i], kind[i], change[i]
            j = i
            while j >= gap and (score[j - gap] > value or (score[j - gap] == value and kind[j - gap] > which)):
                score[j], kind[j], change[j] = score[j - gap], kind[j - gap], change[j - gap]
                j -= gap
            score[j], kind[j], change[j] = value, which, step
        gap //= 3


@njit(cache=True, nogil=True)
def _net(score, kind, change, count):
    """Sort by score and kind, add up what is equal, drop what cancels; returns the new number of entries."""
    _sort(score, kind, change, count)
    kept = 0
    entry = 0
    while entry < count:
        total = 0
        value, which = score[entry], kind[entry]
        while entry < count and score[entry] == value and kind[entry] == which:
            total += change[entry]
            entry += 1
        if total != 0:
            score[kept], kind[kept], change[kept] = value, which, total
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _falling_thresholds(high, low, chosen, num):
    """Sorted, highest first, each once: where one of the chosen runs begins or ends to exist; never -inf."""
    thresholds = np.empty(2 * num)
    count = 0
    for run in chosen[:num]:
        for value in (high[run], low[run]):
            place = count
            while place and thresholds[place - 1] < value:
                place -= 1
            if value == -np.inf or (place and thresholds[place - 1] == value):
                continue
            for i in range(count, place, -1):
                thresholds[i] = thresholds[i - 1]
            thresholds[place] = value
            count += 1
    return thresholds[:count]


@njit(cache=True, nogil=True)
def _grown(array, needed):
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    for i in range(len(array)):
        larger[i] = array[i]
    return larger


@njit(cache=True, nogil=True)
def _intersection_entries(
    run_starts, run_onsets, run_offsets, high, low,
    event_starts, event_onsets, event_offsets, labels,
    target, num_classes, dtc, gtc, cttc,
):  # fmt: skip
    out_score = np.empty(1024)
    out_clip = np.empty(1024, np.int32)
    out_kind = np.empty(1024, np.int16)
    out_change = np.empty(1024, np.int32)
    num_out = 0
    score = np.empty(1024)
    kind = np.empty(1024, np.int16)
    change = np.empty(1024, np.int32)
    other = np.zeros(num_classes)
    for clip in range(len(run_starts) - 1):
        first, last = run_starts[clip], run_starts[clip + 1]
        event_first, event_last = event_starts[clip], event_starts[clip + 1]
        num_runs = last - first
        num_events = event_last - event_first
        needed = 2 * num_runs * (1 + num_events) + 4 * num_runs * num_events + 8
        score, kind, change = _grown(score, needed), _grown(kind, needed), _grown(change, needed)
        count = 0
        relevant = np.zeros(num_runs, np.bool_)
        for run in range(first, last):
            inside = 0.0
            for event in range(event_first, event_last):
                if labels[event] == target:
                    shared = min(run_offsets[run], event_offsets[event]) - max(run_onsets[run], event_onsets[event])
                    inside += max(shared, 0.0)
            length = run_offsets[run] - run_onsets[run]
            if _round6(inside) >= _round6(dtc * length):
                relevant[run - first] = True
                continue
            count = _switch(score, kind, change, count, high[run], low[run], FALSE_POSITIVE)
            if cttc < 0:
                continue
            for event in range(event_first, event_last):
                shared = min(run_offsets[run], event_offsets[event]) - max(run_onsets[run], event_onsets[event])
                other[labels[event]] += max(shared, 0.0)
            for event in range(event_first, event_last):
                label = labels[event]
                if label == target or (event > event_first and labels[event - 1] == label):
                    continue
                if _round6(other[label]) >= _round6(cttc * length):
                    count = _switch(score, kind, change, count, high[run], low[run], label)
            for event in range(event_first, event_last):
                other[labels[event]] = 0.0
        for event in range(event_first, event_last):
            if labels[event] == target:
                count = _covered(
                    run_onsets[first:last], run_offsets[first:last], high[first:last], low[first:last], relevant,
                    event_onsets[event], event_offsets[event], gtc, score, kind, change, count,
                )  # fmt: skip
        count = _net(score, kind, change, count)
        needed = num_out + count
        out_score, out_clip = _grown(out_score, needed), _grown(out_clip, needed)
        out_kind, out_change = _grown(out_kind, needed), _grown(out_change, needed)
        for i in range(count):
            out_score[num_out], out_clip[num_out] = score[i], clip
            out_kind[num_out], out_change[num_out] = kind[i], change[i]
            num_out += 1
    return out_score[:num_out].copy(), out_clip[:num_out].copy(), out_kind[:num_out].copy(), out_change[:num_out].copy()


@njit(cache=True, nogil=True)
def _switch(score, kind, change, count, high, low, which):
    """Note that a count of this kind is one larger for low < t <= high."""
    score[count], kind[count], change[count] = high, which, 1
    count += 1
    if low > -np.inf:
        score[count], kind[count], change[count] = low, which, -1
        count += 1
    return count


@njit(cache=True, nogil=True)
def _covered(onsets, offsets, high, low, relevant, onset, offset, gtc, score, kind, change, count):
    """Note at which thresholds the relevant detections cover enough of one event."""
    chosen = np.empty(len(onsets), np.int64)
    num = 0
    for run in range(len(onsets)):
        if relevant[run] and min(offsets[run], offset) > max(onsets[run], onset):
            chosen[num] = run
            num += 1
    if num == 0:
        return count
    needed = _round6(gtc * (offset - onset))
    hit = False
    for threshold in _falling_thresholds(high, low, chosen, num):
        total = 0.0
        for i in range(num):
            run = chosen[i]
            if low[run] < threshold <= high[run]:
                total += min(offsets[run], offset) - max(onsets[run], onset)
        now = _round6(total) >= needed
        if now != hit:
            score[count], kind[count], change[count] = threshold, TRUE_POSITIVE, 1 if now else -1
            count += 1
            hit = now
    return count


@njit(cache=True, nogil=True)
def _collar_entries(
    run_starts, run_onsets, run_offsets, high, low,
    event_starts, event_onsets, event_offsets, onset_collar, offset_collar, offset_rate,
):  # fmt: skip
    out_score = np.empty(1024)
    out_clip = np.empty(1024, np.int32)
    out_kind = np.empty(1024, np.int16)
    out_change = np.empty(1024, np.int32)
    num_out = 0
    score = np.empty(1024)
    kind = np.empty(1024, np.int16)
    change = np.empty(1024, np.int32)
    for clip in range(len(run_starts) - 1):
        first, last = run_starts[clip], run_starts[clip + 1]
        event_first = event_starts[clip]
        num_events = event_starts[clip + 1] - event_first
        num_runs = last - first
        needed = 2 * num_runs + 8 * num_runs + 8
        score, kind, change = _grown(score, needed), _grown(kind, needed), _grown(change, needed)
        count = 0
        hits = np.zeros((num_runs, num_events), np.bool_)
        hitting = np.zeros(num_runs, np.bool_)
        for run in range(first, last):
            count = _switch(score, kind, change, count, high[run], low[run], FALSE_POSITIVE)
            for i in range(num_events):
                event = event_first + i
                collar = max(offset_collar, offset_rate * (event_offsets[event] - event_onsets[event]))
                late = abs(run_onsets[run] - event_onsets[event]) - onset_collar
                long = abs(run_offsets[run] - event_offsets[event]) - collar
                if _round6(late) <= 0 and _round6(long) <= 0:
                    hits[run - first, i] = True
                    hitting[run - first] = True
        chosen = np.flatnonzero(hitting)
        if len(chosen):
            count = _matched(
                hits[chosen], high[first:last][chosen], low[first:last][chosen], score, kind, change, count
            )
        count = _net(score, kind, change, count)
        needed = num_out + count
        out_score, out_clip = _grown(out_score, needed), _grown(out_clip, needed)
        out_kind, out_change = _grown(out_kind, needed), _grown(out_change, needed)
        for i in range(count):
            out_score[num_out], out_clip[num_out] = score[i], clip
            out_kind[num_out], out_change[num_out] = kind[i], change[i]
            num_out += 1
    return out_score[:num_out].copy(), out_clip[:num_out].copy(), out_kind[:num_out].copy(), out_change[:num_out].copy()


@njit(cache=True, nogil=True)
def _matched(hits, high, low, score, kind, change, count):
    """Note how many events are matched at each threshold; a match is a true positive and no false one."""
    before = 0
    for threshold in _falling_thresholds(high, low, np.arange(len(high)), len(high)):
        now = _largest_matching(hits, (low < threshold) & (threshold <= high))
        if now != before:
            score[count], kind[count], change[count] = threshold, TRUE_POSITIVE, now - before
            score[count + 1], kind[count + 1], change[count + 1] = threshold, FALSE_POSITIVE, before - now
            count += 2
            before = now
    return count


@njit(cache=True, nogil=True)
def _largest_matching(hits, active):
    """Size of the largest one-to-one matching of active runs and events, by augmenting paths (breadth first)."""
    num_runs, num_events = hits.shape
    run_of = np.full(num_events, -1)
    came_from = np.empty(num_events, np.int64)
    queue = np.empty(num_runs, np.int64)
    matched = 0
    for root in range(num_runs):
        if not active[root]:
            continue
        came_from[:] = -1
        queue[0] = root
        head, tail, end = 0, 1, -1
        while head < tail and end < 0:
            run = queue[head]
            head += 1
            for event in range(num_events):
                if hits[run, event] and came_from[event] < 0:
                    came_from[event] = run
                    if run_of[event] < 0:
                        end = event
                        break
                    queue[tail] = run_of[event]
                    tail += 1
        if end < 0:
            continue
        matched += 1
        while end >= 0:  # turn the path around: each run on it takes the event that it led to
            run = came_from[end]
            previous = -1
            for event in range(num_events):
                if run_of[event] == run:
                    previous = event
            run_of[end] = run
            end = previous if run != root else -1
    return matched

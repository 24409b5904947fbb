"""Compiled loops behind `detections`: runs of frames, and how counts change from threshold to threshold.

Compiled once per machine (about ten seconds) and cached in __pycache__; they release the interpreter lock, so threads
run in parallel.
"""

import numpy as np
from numba import njit

TRUE_POSITIVE = -2
FALSE_POSITIVE = -1
"""Kinds of a count; a kind >= 0 is a cross trigger on that class."""

Entries = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""score, clip, kind, change"""


@njit(cache=True, nogil=True)
def find_runs(scores: np.ndarray, starts: np.ndarray, borders: np.ndarray) -> tuple:
    """Every maximal run of frames with score >= some threshold, by one pass with a stack of rising scores.

    Within a clip a run comes after the runs inside it, its children.

    Returns:
        (clips + 1,) starts, then per run: onset, offset, the highest and the excluded lowest threshold at which it
        exists, and 1 minus its number of children: how many detections more there are when the threshold reaches it.
    """
    num_frames = len(scores)
    num_clips = len(starts) - 1
    run_starts = np.zeros(num_clips + 1, np.int64)
    onsets, offsets = np.empty(num_frames), np.empty(num_frames)
    high, low = np.empty(num_frames), np.empty(num_frames)
    gain = np.empty(num_frames, np.int32)
    longest = 0
    for clip in range(num_clips):
        longest = max(longest, starts[clip + 1] - starts[clip])
    stack_start = np.empty(longest + 1, np.int64)
    stack_score = np.empty(longest + 1)
    stack_children = np.empty(longest + 1, np.int32)
    count = 0
    for clip in range(num_clips):
        first, last = starts[clip], starts[clip + 1]
        depth = 0
        for frame in range(first, last + 1):
            score = scores[frame] if frame < last else -np.inf
            left = frame
            children = 0
            while depth and stack_score[depth - 1] > score:
                depth -= 1
                left = stack_start[depth]
                onsets[count], offsets[count] = borders[left + clip], borders[frame + clip]
                high[count] = stack_score[depth]
                low[count] = max(score, stack_score[depth - 1]) if depth else score
                gain[count] = 1 - stack_children[depth]
                count += 1
                if depth and stack_score[depth - 1] >= score:
                    stack_children[depth - 1] += 1
                else:
                    children += 1
            if score > -np.inf and (depth == 0 or stack_score[depth - 1] < score):
                stack_start[depth], stack_score[depth], stack_children[depth] = left, score, children
                depth += 1
        run_starts[clip + 1] = count
    return (
        run_starts, onsets[:count].copy(), offsets[:count].copy(), high[:count].copy(), low[:count].copy(),
        gain[:count].copy(),
    )  # fmt: skip


@njit(cache=True, nogil=True)
def intersection_entries(
    run_starts: np.ndarray, run_onsets: np.ndarray, run_offsets: np.ndarray,
    high: np.ndarray, low: np.ndarray, gain: np.ndarray,
    event_starts: np.ndarray, event_onsets: np.ndarray, event_offsets: np.ndarray, labels: np.ndarray,
    target: int, dtc: float, gtc: float, cttc: float,
) -> Entries:  # fmt: skip
    """Changes of true positives, false positives and (cttc >= 0) cross triggers of the class `target`.

    Events are sorted by clip and label; see `detections` for the criteria.
    """
    out = (np.empty(1024), np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int32))
    num_out = 0
    part = (np.empty(1024), np.empty(1024, np.int32), np.empty(1024, np.int32))
    for clip in range(len(run_starts) - 1):
        first, last = run_starts[clip], run_starts[clip + 1]
        event_first, event_last = event_starts[clip], event_starts[clip + 1]
        num_runs, num_events = last - first, event_last - event_first
        own = 0
        for event in range(event_first, event_last):
            own += labels[event] == target
        needed = num_runs * (1 + num_events) + 4 * num_runs * own + 8
        part = (_grown(part[0], needed), _grown(part[1], needed), _grown(part[2], needed))
        count = 0
        if own == 0 and (cttc < 0 or num_events == 0):
            for run in range(first, last):
                if gain[run]:
                    part[0][count], part[1][count], part[2][count] = high[run], FALSE_POSITIVE, gain[run]
                    count += 1
        else:
            relevant, states = _judge(
                run_onsets[first:last], run_offsets[first:last], event_onsets[event_first:event_last],
                event_offsets[event_first:event_last], labels[event_first:event_last], target, dtc, cttc,
            )  # fmt: skip
            count = _changes_of_states(
                run_onsets[first:last], high[first:last], states, labels[event_first:event_last], part, count
            )
            for event in range(event_first, event_last):
                if labels[event] == target:
                    count = _covered(
                        run_onsets[first:last], run_offsets[first:last], high[first:last], low[first:last], relevant,
                        event_onsets[event], event_offsets[event], gtc, part, count,
                    )  # fmt: skip
        if own:
            count = _net(part, count)
        out = _append(out, num_out, part, count, clip)
        num_out += count
    return out[0][:num_out].copy(), out[1][:num_out].copy(), out[2][:num_out].copy(), out[3][:num_out].copy()


@njit(cache=True, nogil=True)
def collar_entries(
    run_starts: np.ndarray, run_onsets: np.ndarray, run_offsets: np.ndarray,
    high: np.ndarray, low: np.ndarray, gain: np.ndarray,
    event_starts: np.ndarray, event_onsets: np.ndarray, event_offsets: np.ndarray,
    onset_collar: float, offset_collar: float, offset_rate: float,
) -> Entries:  # fmt: skip
    """Changes of true and false positives by collars; the events are of the class alone."""
    out = (np.empty(1024), np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.int32))
    num_out = 0
    part = (np.empty(1024), np.empty(1024, np.int32), np.empty(1024, np.int32))
    for clip in range(len(run_starts) - 1):
        first, last = run_starts[clip], run_starts[clip + 1]
        event_first, num_events = event_starts[clip], event_starts[clip + 1] - event_starts[clip]
        needed = 5 * (last - first) + 8
        part = (_grown(part[0], needed), _grown(part[1], needed), _grown(part[2], needed))
        count = 0
        for run in range(first, last):
            if gain[run]:
                part[0][count], part[1][count], part[2][count] = high[run], FALSE_POSITIVE, gain[run]
                count += 1
        if num_events:
            hits = np.zeros((last - first, num_events), np.bool_)
            chosen = np.empty(last - first, np.int64)
            num_chosen = 0
            for run in range(first, last):
                hit = False
                for i in range(num_events):
                    event = event_first + i
                    collar = max(offset_collar, offset_rate * (event_offsets[event] - event_onsets[event]))
                    late = abs(run_onsets[run] - event_onsets[event]) - onset_collar
                    long = abs(run_offsets[run] - event_offsets[event]) - collar
                    hits[run - first, i] = _round6(late) <= 0 and _round6(long) <= 0
                    hit |= hits[run - first, i]
                if hit:
                    chosen[num_chosen] = run - first
                    num_chosen += 1
            count = _matched(hits, chosen, num_chosen, high[first:last], low[first:last], part, count)
            count = _net(part, count)
        out = _append(out, num_out, part, count, clip)
        num_out += count
    return out[0][:num_out].copy(), out[1][:num_out].copy(), out[2][:num_out].copy(), out[3][:num_out].copy()


@njit(cache=True, nogil=True)
def _round6(seconds: float) -> float:
    """As numpy rounds to 6 decimals; both packages of the field compare so, or a tie would depend on the last bit."""
    return np.rint(seconds * 1e6) / 1e6


@njit(cache=True, nogil=True)
def _judge(
    run_onsets: np.ndarray, run_offsets: np.ndarray, onsets: np.ndarray, offsets: np.ndarray, labels: np.ndarray,
    target: int, dtc: float, cttc: float,
) -> tuple:  # fmt: skip
    """Relevant runs of a clip (runs,), and (runs, 1 + events) which others count as false positives.

    The column of the first event of another class counts cross triggers on it.
    """
    num_runs, num_events = len(run_onsets), len(onsets)
    relevant = np.zeros(num_runs, np.bool_)
    states = np.zeros((num_runs, 1 + num_events), np.int32)
    for run in range(num_runs):
        length = run_offsets[run] - run_onsets[run]
        inside = 0.0
        for event in range(num_events):
            if labels[event] == target:
                inside += max(min(run_offsets[run], offsets[event]) - max(run_onsets[run], onsets[event]), 0.0)
        if _round6(inside) >= _round6(dtc * length):
            relevant[run] = True
            continue
        states[run, 0] = 1
        if cttc < 0:
            continue
        event = 0
        while event < num_events:
            label, column, crossed = labels[event], 1 + event, 0.0
            while event < num_events and labels[event] == label:
                crossed += max(min(run_offsets[run], offsets[event]) - max(run_onsets[run], onsets[event]), 0.0)
                event += 1
            if label != target and _round6(crossed) >= _round6(cttc * length):
                states[run, column] = 1
    return relevant, states


@njit(cache=True, nogil=True)
def _changes_of_states(
    run_onsets: np.ndarray, high: np.ndarray, states: np.ndarray, labels: np.ndarray, part: tuple, count: int
) -> int:
    """Where a run begins to exist its children end, so a count changes by its state minus theirs."""
    open_runs = np.empty(len(run_onsets), np.int64)
    depth = 0
    change = np.zeros(states.shape[1], np.int32)
    for run in range(len(run_onsets)):
        for column in range(states.shape[1]):
            change[column] = states[run, column]
        while depth and run_onsets[open_runs[depth - 1]] >= run_onsets[run]:
            depth -= 1
            for column in range(states.shape[1]):
                change[column] -= states[open_runs[depth], column]
        open_runs[depth] = run
        depth += 1
        for column in range(states.shape[1]):
            if change[column]:
                part[0][count], part[2][count] = high[run], change[column]
                part[1][count] = labels[column - 1] if column else FALSE_POSITIVE
                count += 1
    return count


@njit(cache=True, nogil=True)
def _covered(
    onsets: np.ndarray, offsets: np.ndarray, high: np.ndarray, low: np.ndarray, relevant: np.ndarray,
    onset: float, offset: float, gtc: float, part: tuple, count: int,
) -> int:  # fmt: skip
    """Note at which thresholds the relevant detections cover enough of one event."""
    chosen = np.empty(len(onsets), np.int64)
    num = 0
    for run in range(len(onsets)):
        if relevant[run] and min(offsets[run], offset) > max(onsets[run], onset):
            chosen[num] = run
            num += 1
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
            part[0][count], part[1][count], part[2][count] = threshold, TRUE_POSITIVE, 1 if now else -1
            count += 1
            hit = now
    return count


@njit(cache=True, nogil=True)
def _matched(
    hits: np.ndarray, chosen: np.ndarray, num: int, high: np.ndarray, low: np.ndarray, part: tuple, count: int
) -> int:
    """Note how many events are matched at each threshold; a match is a true positive and no false one."""
    before = 0
    active = np.empty(num, np.int64)
    for threshold in _falling_thresholds(high, low, chosen, num):
        num_active = 0
        for i in range(num):
            if low[chosen[i]] < threshold <= high[chosen[i]]:
                active[num_active] = chosen[i]
                num_active += 1
        now = _largest_matching(hits, active, num_active)
        if now != before:
            part[0][count], part[1][count], part[2][count] = threshold, TRUE_POSITIVE, now - before
            part[0][count + 1], part[1][count + 1], part[2][count + 1] = threshold, FALSE_POSITIVE, before - now
            count += 2
            before = now
    return count


@njit(cache=True, nogil=True)
def _largest_matching(hits: np.ndarray, active: np.ndarray, num_active: int) -> int:
    """Size of the largest one-to-one matching of active runs and events, by augmenting paths (breadth first)."""
    num_events = hits.shape[1]
    run_of = np.full(num_events, -1)
    came_from = np.empty(num_events, np.int64)
    queue = np.empty(num_active + 1, np.int64)
    matched = 0
    for root in range(num_active):
        came_from[:] = -1
        queue[0] = active[root]
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
            end = previous if run != active[root] else -1
    return matched


@njit(cache=True, nogil=True)
def _falling_thresholds(high: np.ndarray, low: np.ndarray, chosen: np.ndarray, num: int) -> np.ndarray:
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
def _net(part: tuple, count: int) -> int:
    """Sort by score and kind, add up equal entries, drop sums of 0; returns the new number of entries."""
    score, kind, change = part
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
def _sort(score: np.ndarray, kind: np.ndarray, change: np.ndarray, count: int) -> None:
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
def _append(out: tuple, num_out: int, part: tuple, count: int, clip: int) -> tuple:
    needed = num_out + count
    out = (_grown(out[0], needed), _grown(out[1], needed), _grown(out[2], needed), _grown(out[3], needed))
    for i in range(count):
        out[0][num_out + i], out[1][num_out + i] = part[0][i], clip
        out[2][num_out + i], out[3][num_out + i] = part[1][i], part[2][i]
    return out


@njit(cache=True, nogil=True)
def _grown(array: np.ndarray, needed: int) -> np.ndarray:
    """The array itself, or a larger copy."""
    if needed <= len(array):
        return array
    larger = np.empty(max(needed, 2 * len(array)), array.dtype)
    for i in range(len(array)):
        larger[i] = array[i]
    return larger

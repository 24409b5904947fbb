"""Compiled loops behind `detections`: runs of frames, and how counts change from threshold to threshold.

They release the interpreter lock, so threads run in parallel.
"""

import numpy as np

from common.inference.compiled import compiled

TRUE_POSITIVE = -2
FALSE_POSITIVE = -1
"""Kinds of a count; a kind >= 0 is a cross trigger on that class."""

Entry = tuple[float, int, int, int]
"""score, clip, kind, change"""


@compiled
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


@compiled
def intersection_entries(
    run_starts: np.ndarray, run_onsets: np.ndarray, run_offsets: np.ndarray,
    high: np.ndarray, low: np.ndarray, gain: np.ndarray,
    event_starts: np.ndarray, event_onsets: np.ndarray, event_offsets: np.ndarray, labels: np.ndarray,
    target: int, dtc: float, gtc: float, cttc: float,
) -> tuple:  # fmt: skip
    """Changes of true positives, false positives and (cttc >= 0) cross triggers of the class `target`.

    Events are sorted by clip and label; see `detections` for the criteria.
    """
    out = [(0.0, 0, 0, 0) for _ in range(0)]
    for clip in range(len(run_starts) - 1):
        runs, events = slice(run_starts[clip], run_starts[clip + 1]), slice(event_starts[clip], event_starts[clip + 1])
        of_events, of_target = labels[events], labels[events] == target
        if not of_target.any() and (cttc < 0 or not len(of_events)):
            _all_false(high[runs], gain[runs], clip, out)
            continue
        relevant, states = _judge(
            run_onsets[runs], run_offsets[runs], event_onsets[events], event_offsets[events], of_events,
            target, dtc, cttc,
        )  # fmt: skip
        _changes_of_states(run_onsets[runs], high[runs], states, of_events, clip, out)
        for event in np.flatnonzero(of_target) + event_starts[clip]:
            _covered(
                run_onsets[runs], run_offsets[runs], high[runs], low[runs], relevant,
                event_onsets[event], event_offsets[event], gtc, clip, out,
            )  # fmt: skip
    return _as_arrays(out)


@compiled
def collar_entries(
    run_starts: np.ndarray, run_onsets: np.ndarray, run_offsets: np.ndarray,
    high: np.ndarray, low: np.ndarray, gain: np.ndarray,
    event_starts: np.ndarray, event_onsets: np.ndarray, event_offsets: np.ndarray,
    onset_collar: float, offset_collar: float, offset_rate: float,
) -> tuple:  # fmt: skip
    """Changes of true and false positives by collars; the events are of the class alone."""
    out = [(0.0, 0, 0, 0) for _ in range(0)]
    for clip in range(len(run_starts) - 1):
        runs, events = slice(run_starts[clip], run_starts[clip + 1]), slice(event_starts[clip], event_starts[clip + 1])
        _all_false(high[runs], gain[runs], clip, out)
        onsets, offsets = event_onsets[events], event_offsets[events]
        if not len(onsets):
            continue
        hits = np.zeros((len(high[runs]), len(onsets)), np.bool_)
        for run in range(len(hits)):
            for event in range(len(onsets)):
                collar = max(offset_collar, offset_rate * (offsets[event] - onsets[event]))
                late = abs(run_onsets[runs][run] - onsets[event]) - onset_collar
                long = abs(run_offsets[runs][run] - offsets[event]) - collar
                hits[run, event] = _round6(late) <= 0 and _round6(long) <= 0
        _matched(hits, high[runs], low[runs], clip, out)
    return _as_arrays(out)


@compiled
def _as_arrays(entries: list[Entry]) -> tuple:
    """score, clip, kind, change, (entries,) each."""
    score = np.empty(len(entries))
    others = np.empty((3, len(entries)), np.int32)
    for i, entry in enumerate(entries):
        score[i], others[0, i], others[1, i], others[2, i] = entry
    return score, others[0], others[1], others[2]


@compiled
def _all_false(high: np.ndarray, gain: np.ndarray, clip: int, out: list[Entry]) -> None:
    """Count every run of a clip as a false positive."""
    for run in range(len(high)):
        if gain[run]:
            out.append((high[run], clip, FALSE_POSITIVE, int(gain[run])))


@compiled
def _round6(seconds: float) -> float:
    """As numpy rounds to 6 decimals; both packages of the field compare so, or a tie would depend on the last bit."""
    return np.rint(seconds * 1e6) / 1e6


@compiled
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


@compiled
def _changes_of_states(
    run_onsets: np.ndarray, high: np.ndarray, states: np.ndarray, labels: np.ndarray, clip: int, out: list[Entry]
) -> None:
    """Where a run begins to exist its children end, so a count changes by its state minus theirs."""
    open_runs = np.empty(len(run_onsets), np.int64)
    depth = 0
    change = np.zeros(states.shape[1], np.int32)
    for run in range(len(run_onsets)):
        change[:] = states[run]
        while depth and run_onsets[open_runs[depth - 1]] >= run_onsets[run]:
            depth -= 1
            change -= states[open_runs[depth]]
        open_runs[depth] = run
        depth += 1
        for column in range(len(change)):
            if change[column]:
                kind = int(labels[column - 1]) if column else FALSE_POSITIVE
                out.append((high[run], clip, kind, int(change[column])))


@compiled
def _covered(
    onsets: np.ndarray, offsets: np.ndarray, high: np.ndarray, low: np.ndarray, relevant: np.ndarray,
    onset: float, offset: float, gtc: float, clip: int, out: list[Entry],
) -> None:  # fmt: skip
    """Note at which thresholds the relevant detections cover enough of one event."""
    chosen = np.flatnonzero(relevant & (np.minimum(offsets, offset) > np.maximum(onsets, onset)))
    needed = _round6(gtc * (offset - onset))
    hit = False
    for threshold in _falling_thresholds(high, low, chosen):
        total = 0.0
        for run in chosen:
            if low[run] < threshold <= high[run]:
                total += min(offsets[run], offset) - max(onsets[run], onset)
        now = _round6(total) >= needed
        if now != hit:
            out.append((threshold, clip, TRUE_POSITIVE, 1 if now else -1))
            hit = now


@compiled
def _matched(hits: np.ndarray, high: np.ndarray, low: np.ndarray, clip: int, out: list[Entry]) -> None:
    """Note how many events are matched at each threshold; a match is a true positive and no false one."""
    chosen = np.array([run for run in range(len(hits)) if hits[run].any()], np.int64)
    before = 0
    active = np.empty(len(chosen), np.int64)
    for threshold in _falling_thresholds(high, low, chosen):
        num_active = 0
        for run in chosen:
            if low[run] < threshold <= high[run]:
                active[num_active] = run
                num_active += 1
        now = _largest_matching(hits, active, num_active)
        if now != before:
            out.append((threshold, clip, TRUE_POSITIVE, now - before))
            out.append((threshold, clip, FALSE_POSITIVE, before - now))
            before = now


@compiled
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


@compiled
def _falling_thresholds(high: np.ndarray, low: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sorted, highest first, each once: where one of the chosen runs begins or ends to exist; never -inf."""
    thresholds = np.empty(2 * len(chosen))
    count = 0
    for run in chosen:
        for value in (high[run], low[run]):
            place = count
            while place and thresholds[place - 1] < value:
                place -= 1
            if value == -np.inf or (place and thresholds[place - 1] == value):
                continue
            thresholds[place + 1 : count + 1] = thresholds[place:count].copy()
            thresholds[place] = value
            count += 1
    return thresholds[:count]

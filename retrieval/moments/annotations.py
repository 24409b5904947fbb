"""Queries and their true windows: the jsonl files of CASTELLA and Clotho-Moment, and of predictions."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data.check_report import CheckReport
from common.data.files import atomic_write, is_made_up, read_marker
from common.errors import UserError
from retrieval.moments.metrics import LISTED, Array, as_windows, of_length

SLACK = 1.0
"""Seconds by which CASTELLA's windows may end after `duration`, which is rounded down."""
COUNTS = {  # file: queries, recordings; lighthouse at d095eaa
    "castella_train_release.jsonl": (2182, 876),
    "castella_val_release.jsonl": (352, 178),
    "castella_test_release.jsonl": (1347, 566),
    "clotho_moment_train_release.jsonl": (None, None),  # 32,694 queries, from a source that was not verified
    "clotho_moment_val_release.jsonl": (4918, 4107),
    "clotho_moment_test_release.jsonl": (6649, 5472),
    "dcase2026_evaluation.jsonl": (177, 100),
}
STALE = {"castella_train_release.jsonl": 2208, "castella_val_release.jsonl": 357, "castella_test_release.jsonl": 1360}
"""Counts of CASTELLA's README, which is out of date."""
EVALUATION = "dcase2026_evaluation.jsonl"


class Query(NamedTuple):
    """A sentence about a recording; windows (n, 2) in seconds in the order of the file, none in an evaluation set."""

    qid: str
    query: str
    vid: str
    duration: float
    windows: Array


def read_queries(path: Path, with_windows: bool = True) -> list[Query]:
    """The queries of an annotation file.

    Windows that end after the recording are kept, as the metric counts them; `cut_windows` cuts them for training.

    Raises:
        UserError: naming file and line, if it is not one JSON object a line with qid, query, vid and duration, a qid is
            doubled, a query is empty, or a window is not two finite numbers or ends before it starts.
    """
    queries: dict[str, Query] = {}
    for number, row in read_lines(path, {"qid": (str, int), "query": str, "vid": str, "duration": (int, float)}):
        where, qid = f"{path}:{number}", str(row["qid"])
        if qid in queries:
            raise UserError(f"{where} has the qid {qid} again; take one of the lines out.")
        if not row["query"].strip():
            raise UserError(f"{where}: the query {qid} is empty; write its sentence or take the line out.")
        if not (math.isfinite(row["duration"]) and row["duration"] > 0):
            raise UserError(f"{where}: the duration of {row['vid']} is {row['duration']}; give its seconds.")
        windows = np.empty((0, 2))
        if with_windows:
            if not row.get("relevant_windows"):
                raise UserError(f"{where}: the query {qid} has no relevant_windows; take the line out.")
            windows = _read_windows(row["relevant_windows"], qid, where, (2,))
            if (windows < 0).any() or (windows[:, 0] == windows[:, 1]).any():
                raise UserError(f"{where}: a window of {qid} starts before 0 s or is empty; correct it.")
        queries[qid] = Query(qid, row["query"], row["vid"], float(row["duration"]), windows)
    return list(queries.values())


def read_lines(path: Path, keys: Mapping[str, Any]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Number and content of each line of a jsonl file; `keys` are required, with the types of their values."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; `moments data download` fetches the published files.")
    lines = path.read_bytes().splitlines()
    if not any(map(bytes.strip, lines)):
        raise UserError(f"{path} is empty; it needs one query a line.")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number} is not JSON ({error}); restore the line.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} holds a {type(row).__name__}, not an object with {', '.join(keys)}.")
        for key, kind in keys.items():
            if not isinstance(row.get(key), kind) or isinstance(row[key], bool):
                found = json.dumps(row[key])[:40] if key in row else "missing"
                raise UserError(f"{path}:{number}: {key} is {found}; restore the line.")
        yield number, row


def cut_windows(query: Query, longest: float = math.inf) -> Array:
    """The windows of a query within its recording, for training: (n, 2), at least a second long where possible."""
    end = min(query.duration, longest)
    kept = query.windows[query.windows[:, 0] < end] if longest < query.duration else query.windows
    if not len(kept):
        raise UserError(f"No window of {query.qid} lies in the first {end:g} s; raise data.max_seconds.")
    start = np.minimum(kept[:, 0], max(0.0, end - 1))
    return np.stack([start, np.minimum(kept[:, 1], end)], axis=1)


def write_predictions(path: Path, queries: Sequence[Query], windows: Mapping[str, NDArray]) -> None:
    """One line a query: qid, query, vid, pred_relevant_windows, best first, [start, end, score] each."""
    with atomic_write(path) as file:
        for query in queries:
            found = [[round(float(value), 4) for value in window] for window in windows[query.qid]]
            row = {"qid": query.qid, "query": query.query, "vid": query.vid, "pred_relevant_windows": found}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_predictions(path: Path) -> dict[str, Array]:
    """qid to windows (n, 2 or 3), best first.

    Raises:
        UserError: as `read_queries`; a query may have no windows.
    """
    found: dict[str, Array] = {}
    for number, row in read_lines(path, {"qid": (str, int), "pred_relevant_windows": list}):
        qid, where = str(row["qid"]), f"{path}:{number}"
        if qid in found:
            raise UserError(f"{where} has the qid {qid} again; take one of the lines out.")
        found[qid] = _read_windows(row["pred_relevant_windows"], qid, where, (2, 3))
    return found


def _read_windows(windows: Any, qid: str, where: str, columns: Sequence[int]) -> Array:
    try:
        return as_windows(windows, qid, columns)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_annotations(root: Path) -> CheckReport:
    """Counts and oddities of the annotation files in a folder, and recordings in more than one split of a data set."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder.")
    report = CheckReport(root, made_up=is_made_up(root))
    expected: dict[str, Any] = read_marker(root)["numbers"].get("queries", {}) if report.made_up else {}
    names = [name for name in COUNTS if (root / name).is_file()]
    if not names:
        raise UserError(f"{root} holds none of {', '.join(COUNTS)}; `moments data download` fetches them.")
    splits: dict[str, set[str]] = {}
    for name in names:
        try:
            queries = read_queries(root / name, with_windows=name != EVALUATION)
        except UserError as error:
            report.problems.append(str(error))
            continue
        row, notes = _describe(name, queries)
        report.rows.append(row)
        official = (expected.get(name), None) if report.made_up else COUNTS[name]
        for kind, count in zip(("queries", "recordings"), official, strict=True):
            if count not in (None, row[kind]):
                report.problems.append(f"{name} has {row[kind]:,} {kind}, officially {count:,}.")
        report.notes += notes
        if name in STALE and not report.made_up:
            report.notes.append(f"{name}: CASTELLA's README counts {STALE[name]:,} queries, which is out of date.")
        splits[name] = {query.vid for query in queries}
    for first, second in ((a, b) for a in splits for b in splits if a < b and a.split("_")[0] == b.split("_")[0]):
        if both := splits[first] & splits[second]:
            report.problems.append(f"{len(both)} recordings are in {first} and {second}, the first is {min(both)}.")
    return report


def _describe(name: str, queries: Sequence[Query]) -> tuple[dict[str, Any], list[str]]:
    """Counts of a file, and windows that end too late for a slip of rounding."""
    row: dict[str, Any] = {"file": name, "queries": len(queries), "recordings": len({q.vid for q in queries})}
    every = [(query, window) for query in queries for window in query.windows]
    if every:
        late = [window[1] - query.duration for query, window in every]
        row |= {
            "windows": len(every),
            "under 5 s": sum(len(of_length(window, "under 5 s")) for _, window in every),
            "end late": sum(seconds > 0 for seconds in late),
            "start late": sum(window[0] >= query.duration for query, window in every),
            "not sorted": sum(bool((np.diff(query.windows[:, 0]) < 0).any()) for query in queries),
            "more than 10": sum(len(query.windows) > LISTED for query in queries),
        }
    oddities = [
        f"{name}: a window of {query.qid} is {window.tolist()} of {query.duration:g} s; training cuts it."
        for query, window in every
        if window[1] > query.duration + 2 * SLACK
    ]
    return row, oddities

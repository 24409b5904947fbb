"""Checks of Task 6 of 2026: a ranked list of [start, end] for each query, one JSON object a line."""

import codecs
import json
import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from submissions.checks.meta import number
from submissions.checks.registry import Finding, check, shorten
from submissions.reading import Package, System, Unreadable

KEYS = ("qid", "query", "vid", "pred_relevant_windows")
SLACK = 1.0
"""Seconds that a window may end after its recording: durations are rounded down."""
FIGURES = ("Recall1@0.5", "Recall1@0.7")


class Answer(NamedTuple):
    """A line of the output; windows are as written."""

    place: str
    qid: str
    query: str
    vid: str
    windows: Any
    duration: float | None


@check("jsonl_form")
def lines_are_answers(system: System) -> Iterator[Finding]:
    """Every line of the output is a JSON object with qid, query, vid and pred_relevant_windows."""
    yield from shorten(one for one in _read(system) if isinstance(one, Finding) and one.kind == "error")
    yield from shorten(one for one in _read(system) if isinstance(one, Finding) and one.kind == "warning")


@check("moment_queries")
def queries_are_answered(system: System) -> Iterator[Finding]:
    """Every query of the evaluation set is answered once, with its own text and recording."""
    answers, known = _answers(system), system.known_evaluation
    seen, wrong = set(), []
    for answer in answers:
        if answer.qid in seen:
            wrong.append(Finding(answer.place, f"the qid {answer.qid} is listed twice"))
        seen.add(answer.qid)
    qids = known.qids if known else {}
    for answer in answers if qids else []:
        if answer.qid not in qids:
            wrong.append(Finding(answer.place, f"{answer.qid} is no qid of the evaluation set"))
        elif answer.vid != qids[answer.qid][1]:
            told = f"the vid of {answer.qid} is {answer.vid!r}, expected {qids[answer.qid][1]!r}"
            wrong.append(Finding(answer.place, told))
        elif answer.query != qids[answer.qid][0]:
            told = f"the query of {answer.qid} is {answer.query!r}, expected {qids[answer.qid][0]!r}"
            wrong.append(Finding(answer.place, told))
    yield from shorten(wrong)
    if missing := [qid for qid in qids if qid not in seen]:
        sentence = f"{len(missing):,} of {len(qids):,} queries are missing, the first is {missing[0]}"
        yield Finding(answers[0].place.rpartition(":")[0], sentence)
    system.evaluation("qids")


@check("windows")
def windows_are_spans(system: System) -> Iterator[Finding]:
    """Every query has windows of two finite numbers, start before end, within the recording."""
    durations = system.known_evaluation.durations if system.known_evaluation else {}
    wrong = []
    for answer in _answers(system):
        told = _first_mistake(answer.windows, durations.get(answer.vid, answer.duration))
        if told:
            wrong.append(Finding(answer.place, f"{answer.qid}: {told}"))
    yield from shorten(wrong)
    system.evaluation("durations")


@check("windows_plausible")
def windows_are_useful(system: System, *, most: int) -> Iterator[Finding]:
    """No query has too many, equal or empty windows (warnings)."""
    found: dict[str, list[Finding]] = {"many": [], "equal": [], "empty": []}
    for place, qid, *_, windows, _ in _answers(system):
        spans = [tuple(window) for window in windows if isinstance(window, list)] if isinstance(windows, list) else []
        if len(spans) > most:
            told = f"{qid} has {len(spans)} windows; only the first {most} count"
            found["many"].append(Finding(place, told, "warning"))
        if len({str(span) for span in spans}) < len(spans):
            found["equal"].append(Finding(place, f"{qid} has a window twice", "warning"))
        if any(len(span) == 2 and span[0] == span[1] for span in spans):
            found["empty"].append(Finding(place, f"{qid} has a window of 0 s, which never hits", "warning"))
    for findings in found.values():
        yield from shorten(findings)


@check("windows_differ")
def answers_differ(package: Package) -> Iterator[Finding]:
    """The windows differ between queries and between systems (warnings)."""
    written = {}
    for system in package.systems:
        answers = _answers(system)
        file = answers[0].place.rpartition(":")[0]
        lists = {answer.qid: json.dumps(answer.windows) for answer in answers}
        if len(lists) > 1 and len(set(lists.values())) == 1:
            yield Finding(file, "every query has the same windows", "warning")
        written[file] = lists
    for (other, first), (file, second) in combinations(written.items(), 2):
        if first == second:
            yield Finding(file, f"has the same windows as {other}", "warning")


@check("moment_figures")
def recalls_are_per_cent(system: System) -> Iterator[Finding]:
    """Development figures are per cent, and R1@0.7 is at most R1@0.5 (a warning where they are not given)."""
    base = ("results", "development_testing")
    given = {name: number(system, *base, name) for name in FIGURES if system.meta.get(*base, name) is not None}
    absent = [name for name in FIGURES if name not in given]
    if absent:
        yield Finding(system.meta_place(*base), f"{' and '.join(absent)} on the CASTELLA test are not given", "warning")
    if given and 0 < max(given.values()) <= 1:
        yield Finding(system.meta_place(*base), f"every figure is {max(given.values()):g} or less: give per cent")
    if not absent and given["Recall1@0.7"] > given["Recall1@0.5"]:
        sentence = f"Recall1@0.7 is {given['Recall1@0.7']:g}, more than Recall1@0.5 with {given['Recall1@0.5']:g}"
        yield Finding(system.meta_place(*base, "Recall1@0.7"), sentence)


def _answers(system: System) -> list[Answer]:
    answers = [one for one in _read(system) if isinstance(one, Answer)]
    if not answers:
        raise Unreadable(f"{system.label} has no answer that can be read")
    return answers


def _read(system: System) -> Iterator[Answer | Finding]:
    for name in system.table_names:
        content = system.files[name].read_bytes()
        if content.startswith(codecs.BOM_UTF8):
            yield Finding(system.place(name, 1), "starts with a byte order mark, on which JSON readers stop")
            content = content.removeprefix(codecs.BOM_UTF8)
        for line, row in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
            yield from _read_line(row, system.place(name, line))


def _read_line(row: bytes, place: str) -> Iterator[Answer | Finding]:
    if not row.strip():
        yield Finding(place, "is blank")
        return
    try:
        data = json.loads(row.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_refuse_doubled)
    except (ValueError, RecursionError) as error:
        yield Finding(place, f"is not JSON: {error}")
        return
    if not isinstance(data, dict):
        yield Finding(place, f"is no object with {', '.join(KEYS)}")
        return
    texts = [key for key in KEYS[:3] if not isinstance(data.get(key), str)]
    if texts or KEYS[3] not in data:
        found = "is missing" if (texts or KEYS[3:])[0] not in data else "is no text"
        yield Finding(place, f"{(texts or KEYS[3:])[0]} {found}")
        return
    if others := [key for key in data if key not in (*KEYS, "duration")]:
        yield Finding(place, f"the key {others[0]!r} is none of the format", "warning")
    duration = data.get("duration")
    duration = duration if isinstance(duration, int | float) and not isinstance(duration, bool) else None
    yield Answer(place, data["qid"], data["query"], data["vid"], data["pred_relevant_windows"], duration)


def _first_mistake(windows: Any, duration: float | None) -> str | None:
    """The first thing that is wrong with the windows of a query, or None."""
    if not isinstance(windows, list) or not windows:
        return "there is no window" if windows == [] else "pred_relevant_windows is no list of windows"
    for window in windows:
        numbers = window if isinstance(window, list) else []
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or len(numbers) != 2:
            scores = "; a third number is a score, which is not submitted" if len(numbers) == 3 else ""
            return f"{json.dumps(window)[:60]} is not [start, end]{scores}"
        start, end = numbers
        if not (abs(start) < math.inf and abs(end) < math.inf):
            return f"{json.dumps(window)[:60]} is not finite"
        if start > end or start < 0:
            return f"the window {window} " + ("starts after its end" if start > end else "starts before 0 s")
        if duration is not None and end > duration + SLACK:
            return f"the window {window} ends after the recording of {duration:g} s"
    return None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _refuse_doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is there twice")
    return content

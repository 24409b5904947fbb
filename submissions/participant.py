"""META.yaml, which the participant fills in: read, and joined with the results of the runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from submissions.rules import Rules
from submissions.schema import MetaFile, mistakes
from submissions.template import TO_FILL_IN

COMPUTED = {"submission": ["label"], "system": ["complexity", "energy"], "": ["results"]}
"""Parts of the meta file that are added from the runs, by group."""


def read_participant(path: Path, rules: Rules) -> dict[str, Any]:
    """Read META.yaml, made from `python -m submissions template`.

    Raises:
        UserError: one line for each mistake, with file and line.
    """
    if not path.is_file():
        hint = f"Make it with `python -m submissions template {rules.name} --out {path}`."
        raise UserError(f"{path} does not exist. {hint}")
    meta = MetaFile(path)
    form = {
        group: {key: part for key, part in parts.items() if key not in COMPUTED[group]}
        for group, parts in rules.meta.items()
        if group in COMPUTED
    }
    found = list(meta.mistakes)
    if meta.data is not None:
        found += [(meta.line(place), sentence) for place, sentence in mistakes(meta.data, form)]
    rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
    unfilled = [line for line, row in enumerate(rows, start=1) if TO_FILL_IN in row.partition("#")[0]]
    found = [(line, sentence) for line, sentence in found if line not in unfilled]
    found += [(line, f"{rows[line - 1].strip()} is still to be filled in") for line in unfilled]
    if found:
        raise UserError("\n".join(f"{path}:{line}: {sentence}" for line, sentence in sorted(found)))
    return meta.data


def join_meta(participant: Mapping[str, Any], label: str, computed: Mapping[str, Any], results: Mapping) -> dict:
    """The whole meta file; `computed` is added to its group `system`."""
    submission = {"label": label, **participant["submission"]}
    return {"submission": submission, "system": {**participant["system"], **computed}, "results": dict(results)}

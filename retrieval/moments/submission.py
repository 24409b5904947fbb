"""The package of DCASE 2026 Task 6: at most ten windows [start, end] for each query, best first.

It reads of the run:

    test/evaluation.json            "figures" of the last system with "R1@0.5" and "R1@0.7", 0..1
    test/predictions.jsonl          answers to the test queries, from which the figures are computed again
    predictions/predictions.jsonl   answers to the evaluation set (the verb `predict`)
    predictions/evaluation.json     "annotations" (path of the queries), "made_up" (bool)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.files import atomic_write, read_json
from common.errors import UserError
from common.runs.folder import run_folders
from common.runs.run import Run, open_run
from common.settings.yaml_file import to_yaml
from retrieval.moments.annotations import SLACK, Query, read_predictions, read_queries
from retrieval.moments.metrics import Array, recall_at_1
from retrieval.moments.settings import TRAINED, MomentSettings
from submissions.package import OUT, finish_package, new_system, team_name
from submissions.participant import join_meta, read_participant
from submissions.reading import EvaluationFiles
from submissions.rules import load_rules

RULES = "task6_2026"
MOST_WINDOWS = 10
PREDICT = "python -m retrieval moments predict RUN --root EVALUATION_SET"


def package(folders: Sequence[Path], label: str, meta: Path, out: Path = OUT) -> Path:
    """Write the package of one system, check it, and zip it.

    Args:
        folders: the run, with predictions (`predict`).
        meta: META.yaml with names and methods, from `python -m submissions template task6_2026`.
        out: folder of the packages.

    Returns:
        The zip; the folder lies beside it.

    Raises:
        UserError: if predictions are missing or miss queries, figures do not follow from the run's predictions,
            META.yaml has mistakes, or the package exists.
        CheckFailed: if the package breaks a rule; its folder stays for inspection.
    """
    runs, rules = [open_run(folder, MomentSettings) for folder in run_folders(folders)], load_rules(RULES)
    if len(runs) > 1:
        raise UserError(f"{len(runs)} runs are given; windows of several runs cannot be averaged, so give one run.")
    run = runs[0]
    participant = read_participant(meta, rules)
    results = {"development_testing": development_figures(run)}
    path = run.folder / "predictions" / "predictions.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist. Make it with `{PREDICT}`.")
    windows = read_predictions(path)
    known = read_json(path.with_name("evaluation.json"), f"call `{PREDICT}` again",
                      {"annotations": str, "made_up": bool})  # fmt: skip
    queries = read_queries(Path(known["annotations"]), with_windows=False)
    if missing := [query.qid for query in queries if query.qid not in windows]:
        raise UserError(f"{path} has no answer to {missing[0]} of {known['annotations']}; call `{PREDICT}` again.")
    content = join_meta(participant, label, {}, results)
    content["system"]["model"] |= count_parameters(run)
    evaluation = evaluation_files(queries)
    declared = evaluation.model_dump(include={"files", "durations", "qids"}) if known["made_up"] else None
    with new_system(label, rules, out, declared) as folder:
        with atomic_write(folder / f"{label}.output.jsonl") as file:
            file.write(output_jsonl(queries, windows))
        with atomic_write(folder / f"{label}.meta.yaml") as file:
            file.write(to_yaml(content))
    return finish_package(out / team_name(label), None if known["made_up"] else evaluation)


def evaluation_files(queries: Sequence[Query]) -> EvaluationFiles:
    """The list of an evaluation set that its package is checked against."""
    durations = {query.vid: query.duration for query in queries}
    qids = {query.qid: (query.query, query.vid) for query in queries}
    source = "the evaluation set of the predictions"
    return EvaluationFiles(files=list(durations), durations=durations, qids=qids, source=source)


def output_jsonl(queries: Sequence[Query], windows: Mapping[str, Array]) -> str:
    """A line for each query: qid, query, vid and its first ten windows, without scores, each window once.

    Windows that end more than a second after their recording are cut at its end.
    """
    lines = []
    for query in queries:
        within = [span for span in windows[query.qid].tolist() if span[0] < query.duration]
        ends = [end if end <= query.duration + SLACK else query.duration for _, end, *_ in within]
        spans = dict.fromkeys((_plain(span[0]), _plain(end)) for span, end in zip(within, ends, strict=True))
        row = {"qid": query.qid, "query": query.query, "vid": query.vid}
        lines.append(json.dumps({**row, "pred_relevant_windows": list(spans)[:MOST_WINDOWS]}, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def development_figures(run: Run[MomentSettings]) -> dict[str, float]:
    """R1@0.7 and R1@0.5 of the test queries in per cent, computed from the run's predictions.

    Raises:
        UserError: if they are not the figures of the run.
    """
    source = run.settings.data.evaluation
    recorded = list(run.read_evaluation()["figures"].values())[-1]
    path = run.folder / "test" / "predictions.jsonl"
    truth = {query.qid: query.windows for query in read_queries(source.root / source.annotations)}
    figures = {}
    for threshold, value in zip((0.7, 0.5), recall_at_1(read_predictions(path), truth, [0.7, 0.5]), strict=True):
        told = recorded[f"R1@{threshold}"]["value"]
        if abs(told - value) > 1e-6:
            raise UserError(
                f"{path} gives R1@{threshold} = {value:.4f}, but the run's evaluation.json {told:.4f}; "
                f"score it again with --resume {run.folder} --redo test."
            )
        figures[f"Recall1@{threshold}"] = round(100 * float(value), 2)
    return figures


def count_parameters(run: Run[MomentSettings]) -> dict[str, Any]:
    """trainable_parameters of the detector or head."""
    if not run.settings.is_trained:
        return {"trainable_parameters": 0}
    from common.training.checkpoints import read_weights

    weights = read_weights(run.checkpoint(TRAINED), prefix="model.")
    return {"trainable_parameters": sum(one.numel() for one in weights.values())}


def _plain(seconds: float) -> float:
    """Whole seconds as a whole number."""
    return int(seconds) if seconds == int(seconds) else round(seconds, 3)

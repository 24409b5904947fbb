"""How much of a task an embedding already holds: HEAR's shallow evaluation.

hear-eval-kit, heareval/predictions/task_predictions.py (arXiv 2203.03022), for tasks with one embedding per clip: a
network with one or two hidden layers is trained on frozen embeddings. Eight of the sixteen points of the grid are tried
on the first fold's validation clips, the best one is used for all folds.

One difference: among equal validation scores the lower validation loss wins, while HEAR keeps the first (as does
`first_best`). On small sets the accuracy soon reaches 100 %, and the first such epoch is hardly trained.
"""

import copy
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.audioset.metrics import accuracy, mean_average_precision
from common.audioset.settings import Objective
from common.audioset.tasks import LabelledClips
from common.data.audio import list_audio
from common.data.files import read_tsv
from common.errors import UserError
from common.inference.embedding import embed_files, load_embedder
from common.inference.prepare import computing_in
from common.output import say
from common.reports.statistics import bootstrap_mean

TRIED = 8  # points of the grid
LABEL_COLUMNS = ("label", "category", "scene_label", "class")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Point:
    """Hyper-parameters of one training; the defaults are those that the published grid does not vary."""

    hidden_layers: int = 1
    lr: float = 1e-3
    initialization: str = "xavier_uniform"
    hidden_dim: int = 1024
    dropout: float = 0.1
    batch_size: int = 1024
    max_epochs: int = 500
    validate_every: int = 3
    patience: int = 20  # validations without a better score


PUBLISHED: dict[str, Sequence[Any]] = {
    "hidden_layers": (1, 2),
    "lr": (3.2e-3, 1e-3, 3.2e-4, 1e-4),
    "initialization": ("xavier_uniform", "xavier_normal"),
}
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "published": PUBLISHED,
    "fast": {**PUBLISHED, "max_epochs": (10, 50), "validate_every": (3, 10)},
    "faster": dict(
        PUBLISHED, hidden_layers=(0, 1), hidden_dim=(64, 128), patience=(1, 3), max_epochs=(10,), validate_every=(1,)
    ),
}


def grid_points(grid: str = "published") -> list[Point]:
    """The points that are tried, drawn from a grid by shuffling with seed 42."""
    values = GRIDS[grid]
    points = [Point(**dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())]
    random.Random(42).shuffle(points)
    return points[:TRIED]


class ShallowNetwork(nn.Sequential):
    """Hidden layers of linear, batch norm, dropout, ReLU; then a linear layer. Embeddings are not normalised."""

    def __init__(self, size: int, num_labels: int, point: Point):
        start = nn.init.xavier_uniform_ if point.initialization == "xavier_uniform" else nn.init.xavier_normal_
        layers: list[nn.Module] = []
        gain = 1.0
        for _ in range(point.hidden_layers):
            linear = nn.Linear(size, point.hidden_dim)
            start(linear.weight, gain=gain)
            layers += [linear, nn.BatchNorm1d(point.hidden_dim), nn.Dropout(point.dropout), nn.ReLU()]
            size, gain = point.hidden_dim, 2**0.5
        layers.append(nn.Linear(size, num_labels))
        start(layers[-1].weight, gain=gain)  # type: ignore[arg-type]
        super().__init__(*layers)


def score(logits: Tensor, targets: Tensor, objective: Objective) -> float:
    """Accuracy, or for several labels per clip the mean average precision over the labels that occur."""
    return (accuracy if objective == "one_label" else mean_average_precision)(logits, targets)


def train(
    embeddings: tuple[Tensor, Tensor],
    targets: tuple[Tensor, Tensor],
    point: Point,
    objective: Objective,
    seed: int = 42,
    first_best: bool = False,
) -> tuple[nn.Module, tuple[float, float]]:
    """Train on the first of each pair, keep the network that scores best on the second.

    Args:
        embeddings: training and validation, (clips, size).
        targets: likewise, (clips, labels).
        first_best: among equal scores keep the first, not the one of the lowest loss.

    Returns:
        The network, and its score and negative loss on validation (0 with `first_best`).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ShallowNetwork(embeddings[0].shape[1], targets[0].shape[1], point)
        optimiser = torch.optim.Adam(network.parameters(), lr=point.lr)
        order = torch.randperm(len(embeddings[0]))  # HEAR shuffles once
        best, reached, waited = copy.deepcopy(network.state_dict()), (-1.0, 0.0), 0
        for epoch in range(1, point.max_epochs + 1):
            network.train()
            for batch in order.split(point.batch_size):
                if len(batch) < 2:  # batch norm needs two
                    continue
                loss = _loss(network(embeddings[0][batch]), targets[0][batch], objective)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            if epoch % point.validate_every and epoch < point.max_epochs:
                continue
            logits = _predict(network, embeddings[1])
            loss = torch.zeros(()) if first_best else _loss(logits, targets[1], objective)
            now = score(logits, targets[1], objective), -float(loss)
            waited = 0 if now > reached else waited + 1
            if now > reached:
                best, reached = copy.deepcopy(network.state_dict()), now
            if waited >= point.patience:
                break
        network.load_state_dict(best)
    return network.eval(), reached


def fold_plan(folds: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Folds of each round for test (fold i), validation (fold i + 1, cyclic) and training (the rest).

    Folds named train, valid and test make one round.
    """
    names = sorted(set(folds), key=lambda name: (len(name), name))
    if set(names) == set(SPLITS):
        return [("test", "valid", ["train"])]
    if len(names) < 3:
        raise UserError(
            f"{len(names)} folds are too few: one tests, one validates, the others train. Make three or more."
        )
    rounds = []
    for position, test in enumerate(names):
        valid = names[(position + 1) % len(names)]
        rounds.append((test, valid, [name for name in names if name not in (test, valid)]))
    return rounds


def evaluate_embeddings(
    embeddings: np.ndarray,
    task: LabelledClips,
    grid: str = "published",
    folds: Sequence[str] = (),
    seed: int = 42,
    first_best: bool = False,
) -> dict[str, Any]:
    """HEAR's score of embeddings (clips, size) on a task; `first_best` as for `train`.

    `folds` are the only ones to test; the hyper-parameters are always chosen on the first fold of the task.

    Returns:
        score (mean over folds), standard_deviation, interval (95 %, clips resampled), metric, folds, point.
    """
    values = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32))
    targets = torch.from_numpy(task.targets)
    members = {name: torch.from_numpy(task.parts == name) for name in set(task.parts.tolist())}
    plan = fold_plan(task.parts.tolist())
    if missing := [fold for fold in folds if fold not in members]:
        raise UserError(f"There is no fold {missing[0]}; the table has {', '.join(sorted(members))}.")

    def run(plan_round: tuple[str, str, list[str]], point: Point) -> tuple[nn.Module, tuple[float, float]]:
        _, valid, training = plan_round
        rows = torch.stack([members[name] for name in training]).any(dim=0), members[valid]
        pairs = (values[rows[0]], values[rows[1]]), (targets[rows[0]], targets[rows[1]])
        return train(*pairs, point, task.objective, seed, first_best)

    tried = [(run(plan[0], point)[1], point) for point in grid_points(grid)]
    best = max(tried, key=lambda pair: pair[0])[1]
    scores, logits = {}, torch.zeros_like(targets)
    for plan_round in plan:
        test = plan_round[0]
        if folds and test not in folds:
            continue
        network, _ = run(plan_round, best)
        logits[members[test]] = _predict(network, values[members[test]])
        scores[test] = score(logits[members[test]], targets[members[test]], task.objective)
    tested = torch.stack([members[name] for name in scores]).any(dim=0)
    return {
        "metric": "accuracy" if task.objective == "one_label" else "mAP",
        "score": float(np.mean(list(scores.values()))),
        "standard_deviation": float(np.std(list(scores.values()))),
        "interval": _interval(logits[tested], targets[tested], seed) if task.objective == "one_label" else None,
        "folds": scores,
        "point": asdict(best),
        "grid": grid,
        "clips": int(tested.sum()),
    }


def read_task(source: Path) -> LabelledClips:
    """Read a table (csv or tsv) of filename, label (several: separated by ;), fold; or a folder.

    Files of a table lie beside it or in `audio/` beside it. A folder holds one such table, or a folder of audio for
    each label (five folds are then made, each label spread evenly).
    """
    if source.is_dir():
        tables = [path for path in sorted(source.iterdir()) if path.suffix in (".csv", ".tsv") and _is_task(path)]
        if len(tables) != 1:
            return _task_of_folders(source)
        source = tables[0]
    table = read_tsv(source, ["filename", "fold"], separator=_separator(source))
    column = next((name for name in LABEL_COLUMNS if name in table), None)
    if column is None:
        raise UserError(f"{source} has no column label; it has {', '.join(table.columns)}.")
    paths = []
    for name in table["filename"]:
        places = source.parent / name, source.parent / "audio" / name
        paths += [path for path in places if path.exists()][:1]
        if not places[0].exists() and not places[1].exists():
            raise UserError(f"{source} names {name}, which is neither in {source.parent} nor in its folder audio.")
    return _make_task(paths, [label.split(";") for label in table[column]], table["fold"].tolist())


def probe(
    source: Path,
    name: str,
    weights: Path | None = None,
    grid: str = "published",
    folds: Sequence[str] = (),
    first_best: bool = False,
    precision: str = "float32",
) -> dict[str, Any]:
    """Embed a task's clips and evaluate; see `evaluate_embeddings`. Adds the model and the seconds that it took.

    For `precision` of the embeddings see `computing_in`.
    """
    if grid not in GRIDS:
        raise UserError(f"grid is {', '.join(GRIDS)}, not {grid}.")
    task = read_task(source)
    fold_plan(task.parts.tolist())
    started = time.monotonic()
    with computing_in(precision, name):
        embeddings = embed_files(task.paths, load_embedder(name, weights))
    embedded = time.monotonic()
    say(f"{len(task.paths)} clips embedded in {embedded - started:.1f} s; training shallow networks.")
    result = evaluate_embeddings(embeddings, task, grid, folds, first_best=first_best)
    seconds = {"embedding": embedded - started, "training": time.monotonic() - embedded}
    return {"model": name, "size": embeddings.shape[1], **result, "seconds": seconds}


def _loss(logits: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    if objective == "one_label":
        return nn.functional.cross_entropy(logits, targets.argmax(dim=1))
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)


@torch.no_grad()
def _predict(network: nn.Module, embeddings: Tensor) -> Tensor:
    return network.eval()(embeddings)


def _interval(logits: Tensor, targets: Tensor, seed: int) -> tuple[float, float]:
    """95 % interval of the accuracy by resampling clips."""
    right = (logits.argmax(dim=1) == targets.argmax(dim=1)).double().numpy()
    found = bootstrap_mean(right, np.arange(len(right)), np.random.default_rng(seed))
    return found.low, found.high


def _separator(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _is_task(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        columns = set(file.readline().strip().split(_separator(path)))
    return {"filename", "fold"} <= columns and bool(columns & set(LABEL_COLUMNS))


def _task_of_folders(folder: Path) -> LabelledClips:
    paths = list_audio(folder)
    if any(path.parent == folder for path in paths):
        raise UserError(
            f"{folder} needs one table with the columns filename, label and fold, or a folder of audio for each label."
        )
    labels = [path.relative_to(folder).parts[0] for path in paths]
    folds = pd.Series(labels).groupby(labels).cumcount() % 5 + 1
    return _make_task(paths, [[label] for label in labels], folds.astype(str).tolist())


def _make_task(paths: list[Path], labels: list[list[str]], folds: list[str]) -> LabelledClips:
    names = sorted({name for own in labels for name in own})
    targets = np.array([[name in own for name in names] for own in labels], dtype=np.float32)
    objective: Objective = "one_label" if (targets.sum(axis=1) == 1).all() else "several_labels"
    return LabelledClips(tuple(names), objective, paths, targets, np.array(folds), [path.name for path in paths])

"""When pseudo-labels and a mean teacher help: made-up clips, 24 of them labelled, and teachers of different strength.

    python -m tests.benchmarks.trial_pseudo_labels [--seeds 5] [--steps 600] [--mean_teacher_steps 3000] [--work DIR]

Each seed draws its clips anew from a pool: 24 labelled, 400 unlabelled and 150 test clips of the ten DESED classes, and
300 more labelled clips for the leading teacher. A batch has 8 labelled and 12 unlabelled clips.
    supervised      the 24 labels alone; control, with as many steps
    oracle          pseudo-labels are the true labels of all 424 clips; ceiling
    leading         pseudo-labels of one network that was trained on 24 + 300 labels
    equal           pseudo-labels of one network that was trained on the same 24 labels
    leading, one    as leading, with one unlabelled clip a batch
Floor: an untrained network. The second table is about the mean teacher, over more steps:
    supervised      the 24 labels alone; control
    oracle          pseudo-labels are the true labels of all 424 clips; ceiling
    average         the moving average of `supervised`
    consistency w   no pseudo-labels: agreement with the moving average at weight w, tested is the student
    both w          the same training, tested is the average
The third table joins MAESTRO: 60 windows of public places, 4 a batch. In a third of all
clips and windows there is an event of the other data set, which nobody labelled. Pseudo-labels come from one network
that was trained on 300 clips and 200 windows more, and are masked (classes that are not valid for a clip teach nothing,
as published) or not; the oracle's are all that is to be heard, not masked.

Figures: mean of the classes' PSDS1 after a median of 7 frames, and mpAUC of the MAESTRO classes.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data.labels import DESED, MAESTRO
from common.output import print_table
from common.synthetic.events import EVENT_SOUNDS, mix, place_events
from task4_sed.data.targets import EventTargets
from task4_sed.iterations.settings import TwoIterations
from task4_sed.labels import CLIP_SECONDS, MAESTRO_EVALUATED, Domain
from task4_sed.metrics import mean_partial_auc
from tests.benchmarks.cells import Cells
from tests.benchmarks.small_sed import (
    TENSORS,
    Clips,
    SmallBatches,
    SmallTraining,
    clip_name,
    difference_row,
    make_clips,
    make_settings,
    psds1,
    score_tables,
    train,
)

LABELLED, UNLABELLED, EXTRA, TEST = 24, 400, 300, 150
WINDOWS, EXTRA_WINDOWS, TEST_WINDOWS, FOREIGN = 60, 200, 60, 1 / 3
TABLES = {
    "pseudo-labels": ("oracle", "teacher leading", "leading", "leading, one", "teacher equal", "equal"),
    "mean teacher": ("oracle", "consistency 0.5", "consistency 2.0"),
    "joint": ("oracle", "teacher leading", "masked", "unmasked"),
}
POOL = {"strong": 950, "maestro": 350}
BATCH = {"strong": 8, "unlabeled": 12}
JOINT = {"maestro": 4, **BATCH}
PLACES = tuple(name for name in MAESTRO_EVALUATED if name in EVENT_SOUNDS)


def draw_clips(
    count: int, settings: TwoIterations, random: np.random.Generator, domain: Domain = "desed", foreign: float = 0.0
) -> tuple[Clips, Tensor]:
    """Made-up clips with the labels that people gave, and (clips, classes, 156) of all that is in them.

    Args:
        foreign: share of the clips with an event of the other data set, which is not labelled.
    """
    own, others = (DESED, PLACES) if domain == "desed" else (PLACES, DESED)
    waveforms, rows = [], []
    for row in range(count):
        labels = [own[row % len(own)], *random.choice(own, 3)][: random.integers(1, 5)]
        if random.random() < foreign:
            labels.append(random.choice(others))
        events = place_events(map(str, labels), CLIP_SECONDS, EVENT_SOUNDS, random)
        waveforms.append(mix(events, CLIP_SECONDS, EVENT_SOUNDS, random, levels=(3, 20), peaks=(0.15, 0.8)))
        rows += [(row, *event) for event in events]
    events = pd.DataFrame(rows, columns=["clip", "onset", "offset", "event_label"])
    clips = make_clips(waveforms, events[events["event_label"].isin(own)].reset_index(drop=True), settings, domain)
    everything = clips.strong
    if foreign:
        other: Domain = "maestro" if domain == "desed" else "desed"
        targets = EventTargets(count, events, other, settings.labels).gather(np.arange(count))
        everything = torch.maximum(everything, torch.from_numpy(targets.strong))
    return clips, everything


class Pool:
    """Clips of both data sets that all seeds draw from, kept in a file; a clip has all 27 classes.

    `everything`: (clips, classes, 156) by kind, all that is in the clips.
    """

    def __init__(self, work: Path):
        path = work / "pool.pt"
        if not path.is_file():
            work.mkdir(parents=True, exist_ok=True)
            settings = make_settings(work, 0, (*DESED, *MAESTRO))
            domains: dict[str, Domain] = {"strong": "desed", "maestro": "maestro"}
            made = {kind: draw_clips(POOL[kind], settings, np.random.default_rng(number), domain, FOREIGN)
                    for number, (kind, domain) in enumerate(domains.items())}  # fmt: skip
            torch.save(made, path)
        made = torch.load(path, weights_only=False)
        self.clips: dict[str, Clips] = {kind: clips for kind, (clips, _) in made.items()}
        self.everything: dict[str, Tensor] = {kind: everything for kind, (_, everything) in made.items()}


class Seed:
    """The clips of a seed, and its trainings.

    Args:
        pool: to draw from. cells: keeps the figures. work: folder. number: the seed. steps: of each training.
        joint: with MAESTRO and all classes.
    """

    def __init__(self, pool: Pool, cells: Cells, work: Path, number: int, steps: int, joint: bool):
        self.cells, self.work, self.number, self.steps, self.joint = cells, work, number, steps, joint
        self.classes = (*DESED, *MAESTRO) if joint else DESED
        self.batch = JOINT if joint else BATCH
        random = np.random.default_rng((number, joint))
        sizes = {"strong": {"strong": LABELLED, "unlabeled": UNLABELLED, "extra_strong": EXTRA, "test_strong": TEST}}
        if joint:
            sizes["maestro"] = {"maestro": WINDOWS, "extra_maestro": EXTRA_WINDOWS, "test_maestro": TEST_WINDOWS}
        self.clips, self.everything = {}, {}
        for kind, parts in sizes.items():
            order = random.permutation(POOL[kind])
            for name, count in parts.items():
                rows, order = order[:count], order[count:]
                self.clips[name] = only_classes(pool.clips[kind].select(rows), len(self.classes))
                self.everything[name] = pool.everything[kind][torch.from_numpy(rows), : len(self.classes)]

    def settings(self, batch: Mapping[str, int], consistency: float = 0.0, pseudo: float = 0.0) -> TwoIterations:
        """Settings of a training."""
        counts = dict.fromkeys(("maestro", "strong", "synthetic", "weak", "unlabeled"), 0) | dict(batch)
        weights = {"maestro": float(self.joint), "strong": 1.0, "synthetic": 0.0, "weak": 0.0}
        weights |= {"consistency": consistency, "pseudo": pseudo}
        ramp = {"consistency__ramp_steps": max(1, self.steps // 3), "consistency__ramp_limit": 1.0}
        return make_settings(self.work, self.number, self.classes, batch=counts, loss__weights=weights, **ramp)

    def train(
        self, pseudo: Mapping[str, Tensor] | None = None, extra: bool = False, consistency: float = 0.0, other: int = 0,
        unlabelled: int = BATCH["unlabeled"], masked: bool = True,
    ) -> SmallTraining:  # fmt: skip
        """A network of this seed.

        Args:
            pseudo: by kind; None trains on labels. extra: also on the labels of the leading teacher. consistency: its
                weight. other: another number is another network. unlabelled: clips in a batch; without pseudo-labels
                and consistency there are none. masked: of the pseudo-labels.
        """
        batch = {**self.batch, "unlabeled": unlabelled if pseudo or consistency else 0}
        clips = self.clips
        if extra:
            labelled = [kind for kind in ("maestro", "strong") if kind in batch]
            clips = clips | {kind: join([clips[kind], clips[f"extra_{kind}"]]) for kind in labelled}
        settings = self.settings(batch, consistency, 1.0 if pseudo else 0.0)
        settings = settings.model_copy(update={"seed": 100 * self.number + other})
        return train(settings, SmallBatches(clips, batch, self.steps, settings.seed, pseudo), masked)

    def test(self, module: SmallTraining, student: bool = True) -> dict[str, Any]:
        """Figures of the test clips."""
        desed = self.clips["test_strong"]
        figures = {"psds1": psds1(module.logits(desed, student), desed, self.classes)}
        if self.joint:
            windows = self.clips["test_maestro"]
            durations = {clip_name(row): CLIP_SECONDS for row in range(len(windows))}
            tables = score_tables(module.logits(windows, student), self.classes)
            figures["mpauc"] = mean_partial_auc(tables, windows.truth(), durations, classes=PLACES, draws=0).value
        return figures

    def teacher(self, extra: bool) -> dict[str, Any]:
        """A teacher's own figures; its pseudo-labels are kept in a file."""
        module = self.train(extra=extra, other=1)
        pseudo = {kind: module.logits(self.clips[kind]).sigmoid().mT.contiguous() for kind in self.batch}
        torch.save(pseudo, self.work / f"pseudo_{extra}_{self.joint}_{self.number}.pt")
        return self.test(module)

    def read(self, extra: bool) -> dict[str, Tensor]:
        """Pseudo-labels of a teacher."""
        return torch.load(self.work / f"pseudo_{extra}_{self.joint}_{self.number}.pt", weights_only=True)

    def student_and_average(self, consistency: float = 0.0) -> dict[str, Any]:
        """On labels, with or without agreement: both networks, and the one before training."""
        module = self.train(consistency=consistency)
        untrained = SmallTraining(module.settings)
        return {"student": self.test(module), "average": self.test(module, False), "untrained": self.test(untrained)}

    def run(self, table: str) -> dict[str, dict[str, float]]:
        """Figures by arm."""
        arms: dict[str, Callable[[], dict[str, Any]]] = {
            "supervised": self.student_and_average,
            "oracle": lambda: self.test(self.train(self.everything, masked=not self.joint)),
            "teacher leading": lambda: self.teacher(extra=True),
            "leading": lambda: self.test(self.train(self.read(True))),
            "leading, one": lambda: self.test(self.train(self.read(True), unlabelled=1)),
            "teacher equal": lambda: self.teacher(extra=False),
            "equal": lambda: self.test(self.train(self.read(False))),
            "consistency 0.5": lambda: self.student_and_average(0.5),
            "consistency 2.0": lambda: self.student_and_average(2.0),
            "masked": lambda: self.test(self.train(self.read(True))),
            "unmasked": lambda: self.test(self.train(self.read(True), masked=False)),
        }
        figures: dict[str, dict[str, float]] = {}
        for name in ("supervised", *TABLES[table]):
            found = self.cells(f"{table} {name} {self.number}", arms[name])
            figures[name] = found.get("student", found)
            if name == "supervised":
                figures |= {"untrained": found["untrained"], "average": found["average"]}
            elif "average" in found:
                figures[name.replace("consistency", "both")] = found["average"]
        return figures


def only_classes(clips: Clips, count: int) -> Clips:
    """Clips with the first classes alone."""
    targets = (getattr(clips, name)[:, :count] for name in ("strong", "weak", "valid"))
    return Clips(clips.magnitude, *targets, clips.log_mel, clips.events)


def join(parts: Sequence[Clips]) -> Clips:
    """Clips of several sets, one after another; their events are left out."""
    return Clips(*(torch.cat([getattr(part, name) for part in parts]) for name in TENSORS), parts[0].events.iloc[:0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--mean_teacher_steps", type=int, default=3000)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/pseudo_labels"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = Pool(arguments.work)
    for table in arguments.tables:
        steps = arguments.mean_teacher_steps if table == "mean teacher" else arguments.steps
        cells = Cells(arguments.work / f"{table.replace(' ', '_')}.jsonl", {"steps": steps})
        joint = table == "joint"
        found = {
            number: Seed(pool, cells, arguments.work, number, steps, joint).run(table)
            for number in range(arguments.seeds)
        }
        for figure in ("psds1", "mpauc") if joint else ("psds1",):
            show(found, figure, f"{table}: {figure} in %, {steps} steps", joint)


def show(found: Mapping[int, Mapping[str, Mapping[str, float]]], figure: str, title: str, joint: bool) -> None:
    """The table of a figure."""
    arms = {name: {seed: values[name][figure] for seed, values in found.items()} for name in found[0]}
    rows = [difference_row(name, arms["supervised"], values) for name, values in arms.items()]
    if joint:
        rows.append({**difference_row("unmasked", arms["masked"], arms["unmasked"]), "arm": "unmasked - masked"})
    print_table(rows, title=f"{title}, {len(found)} seeds")


if __name__ == "__main__":
    main()

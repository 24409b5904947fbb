"""Does the second iteration of the winner's recipe gain, and how far is the first iteration's ensemble ahead of it?

    python -m tests.benchmarks.trial_two_iterations [--seeds 5] [--work DIR]

Two narrow ATST-F are pre-trained on made-up AudioSet strong, once. Each seed draws 24 labelled, 400 unlabelled and 150
test clips from a pool of made-up ones with the ten DESED classes. Both transformers then go through two iterations of
two stages, each of new convolutions beside them: stage 1 trains the convolutions, stage 2 everything, on the 24 labels;
stage 1 of iteration 2 also learns the pseudo-labels of the ensemble of iteration 1. Iteration 1 is the control: it has
as many steps. Ceiling: the true labels of all clips as pseudo-labels. Floors: iteration 1 with transformers that were
not pre-trained, and chance. Figure: mean of the classes' PSDS1 after a median of 7 frames, of each stage 2.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data.labels import DESED
from common.models.audio_model import AudioModel
from common.output import print_table
from common.settings import load_settings
from common.synthetic.events import EVENT_SOUNDS, mix, place_events
from common.synthetic.synthesize import synthesize
from common.training.seeds import seed_all
from task4_sed.iterations.network import TransformerCrnn
from task4_sed.labels import CLIP_SECONDS
from task4_sed.pretraining.clips import CLASSES
from task4_sed.pretraining.networks import make_model, start_from_weights
from task4_sed.pretraining.recipe import RECIPE, WEIGHTS
from task4_sed.pretraining.settings import PretrainSettings
from tests.benchmarks.cells import Cells
from tests.benchmarks.small_sed import (
    Clips,
    NoTransformer,
    SmallBatches,
    SmallTraining,
    TimeConvolutions,
    difference_row,
    make_clips,
    make_settings,
    psds1,
    train,
)

SMALL = Path("task4_sed/configs/pretrain_small.yaml")
MEMBERS = (0, 1)
POOL, LABELLED, UNLABELLED, TEST = 650, 24, 400, 150
BATCH = {"strong": 8, "unlabeled": 12}
STEPS = {1: 400, 2: 100}
EPOCHS, PRETRAINING_CLIPS = 20, 200


def pretraining(work: Path, member: int) -> PretrainSettings:
    """Settings of the pre-training of a member."""
    plain = {
        "name": f"member{member}", "runs": str(work / "pretraining"), "seed": member, "evaluation.draws": 0,
        "data.root": str(work / "audioset_strong"), "trainer.epochs": EPOCHS, "trainer.validate_every": EPOCHS,
        "trainer.measure_energy": False, "trainer.accelerator": "cpu",
    }  # fmt: skip
    return load_settings(PretrainSettings, SMALL, plain)


def load_transformer(work: Path, member: int, pretrained: bool = True) -> AudioModel:
    """A narrow ATST-F with its front end."""
    settings = pretraining(work, member)
    seed_all(member)
    model = make_model(settings.model, CLASSES)
    if pretrained:
        weights = {"weights": settings.folder / WEIGHTS, "untrained": False}
        start_from_weights(model, settings.model.model_copy(update=weights))
    return model


def read_pool(work: Path) -> Clips:
    """Made-up clips, kept in a file."""
    path = work / "pool.pt"
    if not path.is_file():
        random, waveforms, rows = np.random.default_rng(3), [], []
        for row in range(POOL):
            labels = [DESED[row % len(DESED)], *random.choice(DESED, 3)][: random.integers(1, 5)]
            events = place_events(map(str, labels), CLIP_SECONDS, EVENT_SOUNDS, random)
            waveforms.append(mix(events, CLIP_SECONDS, EVENT_SOUNDS, random, levels=(3, 20), peaks=(0.15, 0.8)))
            rows += [(row, *event) for event in events]
        events = pd.DataFrame(rows, columns=["clip", "onset", "offset", "event_label"])
        front_end = load_transformer(work, 0, pretrained=False).front_end.eval()
        torch.save(make_clips(waveforms, events, make_settings(work, 0, DESED), "desed", front_end), path)
    return torch.load(path, weights_only=False)


@torch.no_grad()
def embed(encoder: Any, clips: Clips) -> Clips:
    """Clips with the frozen transformer's sequences, computed once, in place of its input."""
    sequences = torch.cat([encoder(part) for part in clips.log_mel.split(32)])
    return replace(clips, log_mel=sequences[:, None])


class Seed:
    """The clips of a seed, and its trainings.

    Args:
        pool: to draw from. cells: keeps the figures. work: folder. number: the seed.
    """

    def __init__(self, pool: Clips, cells: Cells, work: Path, number: int):
        self.cells, self.work, self.number = cells, work, number
        order = np.random.default_rng(number).permutation(POOL)
        ends = np.cumsum([LABELLED, UNLABELLED, TEST])
        labelled, unlabelled, test, _ = np.split(order, ends)
        self.clips = {"strong": pool.select(labelled), "unlabeled": pool.select(unlabelled)}
        self.test = pool.select(test)

    def iterate(
        self, member: int, iteration: int, pseudo: Mapping[str, Tensor] | None, pretrained: bool = True
    ) -> SmallTraining:
        """Both stages of a member."""
        encoder: Any = load_transformer(self.work, member, pretrained).network.model.eval()
        embedded = {kind: embed(encoder, clips) for kind, clips in self.clips.items()}
        seed_all(self.number, member, iteration)
        network = TransformerCrnn(TimeConvolutions(len(DESED), encoder.dim), NoTransformer(), None, frozen=True)
        module = self.train(network, embedded, 1, 10 * member + iteration, pseudo)
        whole = TransformerCrnn(module.student.crnn, encoder, None, frozen=False)
        return self.train(whole, self.clips, 2, 10 * member + iteration, None)

    def train(
        self, network: TransformerCrnn, clips: Mapping[str, Clips], stage: int, other: int,
        pseudo: Mapping[str, Tensor] | None,
    ) -> SmallTraining:  # fmt: skip
        """One stage; `other` is part of its seed."""
        batch = {**BATCH, "unlabeled": BATCH["unlabeled"] if pseudo else 0}
        counts = dict.fromkeys(("maestro", "synthetic", "weak"), 0) | batch
        weights = {"maestro": 0.0, "strong": 1.0, "synthetic": 0.0, "weak": 0.0, "consistency": 0.0}
        weights["pseudo"] = 1.0 if pseudo else 0.0
        settings = make_settings(self.work, self.number, DESED, stage, batch=counts, loss__weights=weights)
        settings = settings.model_copy(update={"seed": 100 * self.number + other})
        batches = SmallBatches(clips, batch, STEPS[stage], settings.seed + stage, pseudo)
        return train(settings, batches, number=stage, start=network)

    def member(self, number: int, iteration: int, pseudo: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """A member's figure; its logits of all clips are kept in a file."""
        module = self.iterate(number, iteration, pseudo)
        logits = {kind: module.logits(clips) for kind, clips in (*self.clips.items(), ("test", self.test))}
        torch.save(logits, self.work / f"logits_{iteration}_{number}_{self.number}.pt")
        return {"psds1": psds1(logits["test"], self.test, DESED)}

    def ensemble(self, iteration: int) -> dict[str, Tensor]:
        """Mean logits of the members, by kind of clips."""
        paths = [self.work / f"logits_{iteration}_{member}_{self.number}.pt" for member in MEMBERS]
        members = [torch.load(path, weights_only=True) for path in paths]
        return {kind: torch.stack([logits[kind] for logits in members]).mean(dim=0) for kind in members[0]}

    def run(self) -> dict[str, float]:
        """Figures by name."""
        figures = {}
        for iteration in (1, 2):
            pseudo = None
            if iteration == 2:
                ensemble = self.ensemble(1)
                pseudo = {kind: ensemble[kind].sigmoid().mT.contiguous() for kind in BATCH}
            for member in MEMBERS:
                name = f"iteration {iteration}, member {member}"
                figures[name] = self.figure(name, lambda: self.member(member, iteration, pseudo))  # noqa: B023
            name = f"iteration {iteration}, ensemble"
            figures[name] = self.figure(name, lambda: self.score(self.ensemble(iteration)["test"]))  # noqa: B023
        truth = {kind: clips.strong for kind, clips in self.clips.items()}
        for name, work in (
            ("oracle, member 0", lambda: self.score(self.iterate(0, 2, truth).logits(self.test))),
            ("not pre-trained, member 0", lambda: self.score(self.iterate(0, 1, None, False).logits(self.test))),
            ("chance", lambda: self.score(torch.randn(TEST, 156, len(DESED)))),
        ):
            figures[name] = self.figure(name, work)
        for iteration in (1, 2):
            members = [figures[f"iteration {iteration}, member {member}"] for member in MEMBERS]
            figures[f"iteration {iteration}, mean of members"] = float(np.mean(members))
        return figures

    def figure(self, name: str, work: Callable[[], dict[str, Any]]) -> float:
        """PSDS1 of a cell."""
        return self.cells(f"{name} {self.number}", work)["psds1"]

    def score(self, logits: Tensor) -> dict[str, Any]:
        """PSDS1 of logits of the test clips."""
        return {"psds1": psds1(logits, self.test, DESED)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/two_iterations"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = arguments.work
    cells = Cells(work / "cells.jsonl", {"steps": list(STEPS.values())})
    synthesize("audioset_strong", work / "audioset_strong", clips=PRETRAINING_CLIPS)
    for member in MEMBERS:
        cells(f"pre-training {member}", lambda: {"psds1": RECIPE.cell(pretraining(work, member))["psds1_macro"]})  # noqa: B023
    pool = read_pool(work)
    found = {number: Seed(pool, cells, work, number).run() for number in range(arguments.seeds)}
    arms = {name: {seed: figures[name] for seed, figures in found.items()} for name in found[0]}
    title = f"mean of the classes' PSDS1 in %, {len(found)} seeds, {STEPS[1]} + {STEPS[2]} steps"
    pairs = [
        ("iteration 2 - 1, member 0", "iteration 1, member 0", "iteration 2, member 0"),
        ("iteration 2 - 1, mean of members", "iteration 1, mean of members", "iteration 2, mean of members"),
        ("iteration 2 - 1, ensemble", "iteration 1, ensemble", "iteration 2, ensemble"),
        ("lead of the ensemble", "iteration 1, mean of members", "iteration 1, ensemble"),
        ("oracle - iteration 1, member 0", "iteration 1, member 0", "oracle, member 0"),
        ("pre-trained - not, member 0", "not pre-trained, member 0", "iteration 1, member 0"),
    ]
    means = [{"system": name, "mean": f"{100 * np.mean(list(values.values())):.1f}"} for name, values in arms.items()]
    print_table(means, title=title)
    print_table([{**difference_row("", arms[a], arms[b]), "arm": name} for name, a, b in pairs], title="Differences")


if __name__ == "__main__":
    main()

"""Do dynamic convolutions help where labels are few? MN and DyMN fine-tuned from the kernels of the released mn04.

    python -m tests.benchmarks.trial_dymn --folder ESC10 --weights mn04_as_mAP_432.pt [--seeds 0 1 2 3 4] [--clips 1]

Each seed draws some clips of each class of ESC-10 to train on, each of another recording; the clips of all other
recordings are tested. Arms, with the same steps and clips:

    mn        all weights of the released network
    mn_plain  its kernels, norms and hidden layer in an MN without squeeze-excitation
    dymn      its kernels copied into each expert of a DyMN, norms and hidden layer; what is dynamic begins at random

The ceiling is logistic regression on the released embeddings of four folds, tested on the fifth. The last epoch is
tested. A stopped call resumes from the figures in WORK.
"""

import argparse
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from common.audioset.data import DrawSampler
from common.audioset.finetune import open_labelled
from common.audioset.networks import load_trained, tag_clips
from common.audioset.recipe import fit_network, loader_options
from common.audioset.settings import FineTuneSettings
from common.audioset.tasks import LabelledClips, read_task
from common.audioset.train import TaggingTraining
from common.data.loading import EpochDraws, make_loader
from common.models.dynamic_mobilenet import DynamicConvolution, DynamicMobileNet
from common.models.mobilenet import MobileNet
from common.output import print_table, say
from common.registry import load_audio_model
from common.reports.statistics import Interval, bootstrap_mean, mean_interval, paired_difference
from common.settings import load_settings
from common.training.seeds import seed_all
from tests.benchmarks.cells import Cells, interval_cells

SAMPLE_RATE = 32000
TABLE = Path("common/audioset/configs/table.yaml")
SETTINGS: dict[str, Any] = {
    "data.seconds": 2.5, "loader.batch_size": 10, "loader.num_workers": 0, "model.norm_momentum": 0.1,
    "trainer.measure_energy": False, "trainer.accelerator": "cpu", "optim.warmup": 5,
}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "mn": {"model.name": "mn04"},
    "mn_plain": {"model.name": "mn04", "model.options": {"se_dims": "none"}},
    "dymn": {"model.name": "dymn04", "model.options": {"T_max": 1}},
}
COMPARED = [("mn", "dymn"), ("mn_plain", "dymn"), ("mn_plain", "mn")]
Right = dict[str, dict[int, dict[int, int]]]
"""Arm, seed and number of a tested clip to whether its class was right."""


def layers(network: MobileNet | DynamicMobileNet) -> list[nn.Module]:
    """Convolutions and norms of the signal, from its beginning on."""
    parts = network.features if isinstance(network, MobileNet) else [network.in_c, *network.layers, network.out_c]
    kinds = (nn.Conv2d, nn.BatchNorm2d, DynamicConvolution)
    named = [pair for part in parts for pair in part.named_modules()]
    return [module for name, module in named if isinstance(module, kinds) and not name.startswith("context_gen")]


@torch.no_grad()
def copy_kernels(source: Any, target: Any) -> None:
    """Copy the kernels of an MN (into each expert of a DyMN), its norms and the hidden layer of its classifier."""
    for own, new in zip(layers(source), layers(target), strict=True):
        if isinstance(new, DynamicConvolution):
            kernel: Any = own.weight
            new.weight.copy_(kernel.flatten().expand_as(new.weight))
        else:
            new.load_state_dict(own.state_dict())
    target.classifier[2].load_state_dict(source.classifier[2].state_dict())


def draw_clips(clips: LabelledClips, per_class: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training clips, each of another recording, and the clips of all other recordings."""
    random, target = np.random.default_rng(seed), clips.targets.argmax(axis=1)
    recordings, chosen = np.array(clips.recordings), []
    for label in range(len(clips.labels)):
        drawn = random.choice(np.unique(recordings[target == label]), per_class, replace=False)
        own = [np.flatnonzero((recordings == name) & (target == label)) for name in drawn]
        chosen += [int(random.choice(rows)) for rows in own]
    training = np.sort(chosen)
    return training, np.flatnonzero(~np.isin(recordings, recordings[training]))


def run_cell(
    settings: FineTuneSettings, weights: Path, clips: LabelledClips, per_class: int, arm: str
) -> dict[str, int]:
    """Train an arm; tested clips, and whether each was right."""
    training, tested = draw_clips(clips, per_class, settings.seed)
    seed_all(settings.seed)
    module = TaggingTraining(settings, clips.labels, clips.objective)
    released = load_audio_model("mn04.as", weights, labels=clips.labels).network
    if arm == "mn":
        module.network.load_state_dict(released.state_dict())
    else:
        copy_kernels(released, module.network)
    sampler = DrawSampler(EpochDraws(len(training), len(training)), settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        learned = open_labelled(settings, clips, training, SAMPLE_RATE, training=True)
        fit_network(module, Path(folder), learned, sampler)
        model = load_trained(settings, clips.labels, Path(folder) / "weights.pt")
    loader = make_loader(open_labelled(settings, clips, tested, SAMPLE_RATE), **loader_options(settings))
    logits, facts = tag_clips(model, loader)
    right = logits.argmax(axis=1) == facts["target"].argmax(axis=1)
    return dict(zip(map(str, tested.tolist()), right.astype(int).tolist()))


def run_cells(arguments: argparse.Namespace, clips: LabelledClips) -> Right:
    """Results of all arms and seeds; those in the file of figures are kept."""
    made_with = {"clips": arguments.clips, "epochs": arguments.epochs, "lr": arguments.lr}
    cells = Cells(arguments.work / "cells.jsonl", made_with)
    found: Right = {arm: {} for arm in ARMS}
    for seed, arm in product(arguments.seeds, ARMS):
        settings = make_settings(arguments, arm, seed)
        work = partial(run_cell, settings, arguments.weights, clips, arguments.clips, arm)
        right = {int(clip): value for clip, value in cells(f"seed {seed}, {arm}", work).items()}
        say(f"seed {seed}, {arm}: {100 * np.mean(list(right.values())):.1f} of {len(right)} clips")
        found[arm][seed] = right
    return found


def make_settings(arguments: argparse.Namespace, arm: str, seed: int) -> FineTuneSettings:
    """Settings of an arm."""
    epochs: int = arguments.epochs
    length = {"trainer.epochs": epochs, "optim.down_start": epochs // 2, "optim.down_length": epochs - epochs // 2}
    places = {"data.root": str(arguments.folder), "data.store": str(arguments.work / "encoded")}
    given = {"seed": seed, "optim.lr": arguments.lr}
    return load_settings(FineTuneSettings, TABLE, {**SETTINGS, **length, **places, **ARMS[arm], **given})


def ceiling(arguments: argparse.Namespace, clips: LabelledClips) -> NDArray[np.float64]:
    """Whether logistic regression on the released embeddings of the other folds gets each clip right."""
    settings = make_settings(arguments, "mn", 0)
    model = load_audio_model("mn04.as", arguments.weights)
    every = open_labelled(settings, clips, np.arange(len(clips)), SAMPLE_RATE)
    with torch.inference_mode():
        embedding = torch.cat([model(batch["waveform"]).embedding for batch in make_loader(every, 16)]).numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    target = clips.targets.argmax(axis=1)
    return 100.0 * (cross_val_predict(probe, embedding, target, groups=clips.parts, cv=LeaveOneGroupOut()) == target)


def show(clips: LabelledClips, found: Right, limit: NDArray[np.float64], arguments: argparse.Namespace) -> None:
    """Print the tables."""
    seeds: list[int] = arguments.seeds

    def accuracies(arm: str) -> dict[int, float]:
        return {seed: 100 * float(np.mean(list(found[arm][seed].values()))) for seed in seeds}

    bound = bootstrap_mean(limit, clips.recordings, np.random.default_rng(0))
    rows: list[dict[str, Any]] = [{"arm": "all labels (ceiling)", **interval_cells(bound)}]
    rows += [{"arm": arm, **interval_cells(mean_interval(list(accuracies(arm).values())))} for arm in ARMS]
    print_table(rows, f"Accuracy in %, {arguments.clips} clips a class, {len(seeds)} seeds; chance (floor) 10")
    rows = []
    for first, second in COMPARED if len(seeds) > 1 else ():
        over = paired_difference(accuracies(first), accuracies(second))
        detectable = 2.8 * float(np.std([accuracies(second)[s] - accuracies(first)[s] for s in seeds], ddof=1))
        row = {"to": second, "from": first, **interval_cells(Interval(over.value, over.low, over.high))}
        of_clip = pd.DataFrame(
            [
                {"clip": clip, "change": 100.0 * (right - found[first][seed][clip])}
                for seed in seeds
                for clip, right in found[second][seed].items()
            ]
        )
        groups = [clips.recordings[clip] for clip in of_clip["clip"]]
        resampled = bootstrap_mean(of_clip["change"], groups, np.random.default_rng(0))
        row |= {"clips low": f"{resampled.low:.1f}", "clips high": f"{resampled.high:.1f}"}
        rows.append(row | {"detectable": f"{detectable / len(seeds) ** 0.5:.1f}"})
    print_table(rows, "Differences in points: t over seeds, recordings resampled, detectable = 2.8 standard errors")


def main() -> None:
    """Run the trial and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder with esc10.csv and audio")
    parser.add_argument("--weights", type=Path, required=True, help="released mn04")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--clips", type=int, default=1, help="training clips of each class")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/dymn"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips = read_task(make_settings(arguments, "mn", 0).data)
    found = run_cells(arguments, clips)
    show(clips, found, ceiling(arguments, clips), arguments)


if __name__ == "__main__":
    main()

"""Does a teacher from AudioSet help a student within 128 kB, and what does 8 bit cost?

    python -m tests.benchmarks.trial_distillation --folder ESC10 --weights mn04_as_mAP_432.pt [--seeds 0 1 2]

The data are one-second pieces of ESC-10 in five folds. An epoch has a new piece of each training clip; all
pieces of the fold left out are tested. The teacher is logistic regression on the embeddings of the released mn04. Each
training piece gets its logits from a teacher that was fitted on the other training folds. The student is the CP-Mobile
of configs/distilled.yaml at half its width, on small spectrograms at 16 kHz, with mixup and roll; it learns with the
teacher, or for as many steps from the labels alone. Each student becomes int8 after training; the taught one also after
further training with simulated 8 bit, and after as many further steps in float. The last epoch is tested. A stopped
call resumes from the figures in WORK.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from common.data.audio import resample
from common.data.loading import EpochSampler, make_loader
from common.inference.prepare import prepare_for_inference
from common.inference.quantize import quantize_trained
from common.output import print_table, say
from common.registry import load_audio_model
from common.registry.weights import read_tensors
from common.reports.statistics import Interval, bootstrap_interval, paired_difference
from common.settings import load_settings
from common.training.checkpoints import save_checkpoint
from common.training.seeds import seed_all
from task1_asc.data.clips import TrainingClips
from task1_asc.metrics import macro_accuracy
from task1_asc.networks.build import KEPT_FLOAT, make_model
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.recipe import further_settings, learn, refuse_over_limits, train_quantized
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining
from tests.benchmarks.cells import Cells, interval_cells
from tests.benchmarks.trial_device_generalisation import read_pieces

STUDENT_RATE = 16000  # Hz; the teacher has 32,000
FOLDS = (1, 2, 3, 4, 5)
NUM_CLASSES = 10
ARMS = [
    ("alone", "float"), ("alone", "int8"), ("taught", "float"), ("taught", "int8"), ("taught", "longer"),
    ("taught", "longer, int8"), ("taught", "int8 trained"),
]  # fmt: skip
COMPARED = [
    (("alone", "float"), ("taught", "float")),
    (("alone", "int8"), ("taught", "int8")),
    (("alone", "float"), ("alone", "int8")),
    (("taught", "float"), ("taught", "int8")),
    (("taught", "int8"), ("taught", "int8 trained")),
    (("taught", "longer, int8"), ("taught", "int8 trained")),
]
CALIBRATION = 128
SETTINGS: dict[str, Any] = {
    "subset": 100, "loader.batch_size": 32, "optim.lr": 3e-3, "model.base_channels": 16,
    "front_end": {
        "mel_rate": STUDENT_RATE, "n_fft": 1024, "win_length": 1024, "hop_length": 640, "n_mels": 32, "f_max": 8000.0,
    },
    "augment": {"roll_seconds": 0.5, "mixup_alpha": 0.3, "frequency_mask": 6},
    "quantization.training.lr": 2e-4, "trainer.measure_energy": False, "trainer.accelerator": "cpu",
}  # fmt: skip
Forms = dict[str, list[int]]
"""Form of a student to the predicted class of each test piece."""
Predicted = dict[tuple[int, int, str], Forms]
"""Seed, fold and student to predictions."""


@dataclass
class Pieces:
    """Pieces in memory that give batches as `open_clips` does; `clip` is the clip that each belongs to."""

    waveform: torch.Tensor
    target: torch.Tensor
    clip: NDArray[np.int64]
    teacher_logits: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.waveform)

    def gather(self, indices: list[int]) -> dict[str, Any]:
        """A batch."""
        taught = {} if self.teacher_logits is None else {"teacher_logits": self.teacher_logits[indices]}
        batch = {"waveform": self.waveform[indices], "target": self.target[indices], **taught}
        return batch | {"filename": [str(index) for index in indices], "recording_device": ["a"] * len(indices)}


class OnePieceOfEach(EpochSampler):
    """A random piece of each clip, in random order, drawn from (seed, epoch)."""

    def __init__(self, clip: NDArray[np.int64], seed: int):
        super().__init__(len(np.unique(clip)), seed)
        self.clip = clip

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.clip))
        first = np.unique(self.clip[order], return_index=True)[1]
        return iter(order[np.sort(first)].tolist())


@dataclass(frozen=True)
class PieceClips(TrainingClips):
    """Training pieces in place of clips of the development set."""

    pieces: Pieces | None = None

    @property
    def sample_rate(self) -> int:
        """Hz of the pieces."""
        return STUDENT_RATE

    def training_loader(self, settings: Task1Settings) -> DataLoader:
        """Batches of an epoch."""
        assert self.pieces is not None
        sampler = OnePieceOfEach(self.pieces.clip, settings.seed)
        return make_loader(self.pieces, settings.loader.batch_size, sampler=sampler)


class Data:
    """Pieces of ESC-10 with the teacher's embeddings.

    Args:
        folder: of ESC-10.
        weights: of the teacher.
    """

    def __init__(self, folder: Path, weights: Path):
        table = pd.read_csv(folder / "esc10.csv")
        waveform, self.target, self.clip = read_pieces(folder, table)
        self.fold = table["fold"].to_numpy()[self.clip]
        self.recording = table["src_file"].to_numpy()[self.clip]
        teacher = prepare_for_inference(load_audio_model("mn04.as", weights))
        with torch.inference_mode():
            self.embedding = torch.cat([teacher(part).embedding for part in waveform.split(32)]).numpy()
        self.waveform = resample(waveform, teacher.sample_rate, STUDENT_RATE)

    def pieces(self, rows: NDArray[np.bool_], logits: NDArray[np.float32] | None = None) -> Pieces:
        """Some pieces."""
        taught = None if logits is None else torch.from_numpy(logits[rows])
        return Pieces(self.waveform[rows], self.target[rows], self.clip[rows], taught)

    def teacher_logits(self, held_out: set[int]) -> NDArray[np.float32]:
        """Logits (pieces, classes) of a teacher that was fitted without the folds held out."""
        rows = ~np.isin(self.fold, list(held_out))
        teacher = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        teacher.fit(self.embedding[rows], self.target.numpy()[rows])
        return teacher.decision_function(self.embedding).astype(np.float32)

    def training_pieces(self, fold: int) -> Pieces:
        """All that train when a fold is tested, with logits of teachers that saw neither this fold nor theirs."""
        logits = np.zeros((len(self.fold), NUM_CLASSES), dtype=np.float32)
        for own in set(FOLDS) - {fold}:
            logits[self.fold == own] = self.teacher_logits({fold, own})[self.fold == own]
        return self.pieces(self.fold != fold, logits)


class Student:
    """A student of a fold, with what it trains on and is tested on.

    Args:
        data: of the trial.
        training: pieces of the fold's training.
        fold: to test.
        student: alone or taught.
        seed: of the training.
        arguments: of the trial.
    """

    def __init__(self, data: Data, training: Pieces, fold: int, student: str, seed: int, arguments: argparse.Namespace):
        overrides = {**SETTINGS, "seed": seed, "trainer.epochs": arguments.epochs}
        self.settings = load_settings(Task1Settings, Path("task1_asc/configs/distilled.yaml"), overrides)
        refuse_over_limits(self.settings)
        self.pieces = training if student == "taught" else replace(training, teacher_logits=None)
        self.clips = PieceClips(self.settings, pd.DataFrame(), pieces=self.pieces)
        self.tested = data.pieces(data.fold == fold)
        self.weights: Path = arguments.work / f"student_{seed}_{fold}_{student}.pt"

    def train(self) -> Forms:
        """Train, and keep the weights; predictions in float and in int8."""
        seed_all(self.settings.seed)
        module = SceneTraining(self.settings, STUDENT_RATE)
        self._learn(module, self.settings)
        save_checkpoint(module.network.state_dict(), self.weights)
        return self._predict(module.front_end, {"float": module.network, "int8": self._quantize(module)})

    def train_further(self) -> Forms:
        """Train further in float and with simulated 8 bit; predictions."""
        further, _ = further_settings(self.settings)
        model = make_model(self.settings, STUDENT_RATE)
        model.network.load_state_dict(read_tensors(self.weights))
        with tempfile.TemporaryDirectory() as folder:
            trained = train_quantized(Path(folder), self.clips, model.front_end, copy.deepcopy(model.network), False)
        longer = SceneTraining(further, STUDENT_RATE, model)
        self._learn(longer, further)
        forms = {"longer": longer.network, "longer, int8": self._quantize(longer), "int8 trained": trained}
        return self._predict(longer.front_end, forms)

    def _learn(self, module: SceneTraining, settings: Task1Settings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            learn(module, settings, self.clips, Path(folder), fast_check=False)
        module.eval()

    def _quantize(self, module: SceneTraining) -> Any:
        some = self.pieces.waveform[:: max(1, len(self.pieces) // CALIBRATION)]
        with torch.no_grad():
            return quantize_trained(module.network, [module.front_end(some)], KEPT_FLOAT)

    def _predict(self, front_end: Any, forms: dict[str, Any]) -> Forms:
        networks = {form: DeviceNetworks(network) for form, network in forms.items()}
        logits, _ = classify_with(front_end, networks, make_loader(self.tested, 64))
        return {form: own.argmax(axis=1).tolist() for form, own in logits.items()}


def run_cells(data: Data, arguments: argparse.Namespace) -> Predicted:
    """Predictions of all students; those in the file of figures are kept."""
    cells = Cells(arguments.work / "cells.jsonl", {"epochs": arguments.epochs})
    predicted: Predicted = {}
    training = {fold: data.training_pieces(fold) for fold in FOLDS}
    plan = [("train", *key) for key in product(arguments.seeds, FOLDS, ("alone", "taught"))]
    plan += [("train_further", seed, fold, "taught") for seed, fold in product(arguments.seeds, FOLDS)]
    for method, seed, fold, name in plan:
        student = Student(data, training[fold], fold, name, seed, arguments)
        forms = cells(f"seed {seed}, fold {fold}, {name}, {method}", getattr(student, method))
        predicted.setdefault((seed, fold, name), {}).update(forms)
        target = student.tested.target
        figures = ", ".join(f"{form} {100 * macro_accuracy(own, target):.1f}" for form, own in forms.items())
        say(f"seed {seed}, fold {fold}, {name}: {figures}")
    return predicted


def macro(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes of the first half of the sums divided by the second; absent classes do not count."""
    with np.errstate(invalid="ignore"):
        return np.nanmean(sums[..., :NUM_CLASSES] / sums[..., NUM_CLASSES:], axis=-1)


def interval(data: Data, right: NDArray[np.float64]) -> Interval:
    """Macro accuracy, or a difference of two, of values (pieces,) in per cent; recordings are resampled."""
    classes = np.eye(NUM_CLASSES)[data.target.numpy()]
    values = np.concatenate([100 * right[:, None] * classes, classes], axis=1)
    return bootstrap_interval(macro, values, data.recording, np.random.default_rng(0), 2000)


def show(data: Data, predicted: Predicted, seeds: list[int]) -> None:
    """Print the tables."""
    order, target = np.argsort(data.fold, kind="stable"), data.target.numpy()

    def right(student: str, form: str) -> NDArray[np.float64]:
        """(seeds, pieces), 1 where the class is right."""
        found = np.zeros((len(seeds), len(target)))
        for number, seed in enumerate(seeds):
            answers = np.concatenate([predicted[seed, fold, student][form] for fold in FOLDS])
            found[number, order] = answers == target[order]
        return found

    teacher = np.zeros(len(target))
    for fold in FOLDS:
        rows = data.fold == fold
        teacher[rows] = data.teacher_logits({fold})[rows].argmax(axis=1) == target[rows]
    rows = [{"arm": "teacher (ceiling)", **interval_cells(interval(data, teacher))}]
    rows += [
        {"arm": f"{student}, {form}", **interval_cells(interval(data, right(student, form).mean(axis=0)))}
        for student, form in ARMS
    ]
    print_table(rows, f"Macro accuracy in %, mean of {len(seeds)} seeds; chance (floor) {100 / NUM_CLASSES:.0f}")
    rows = []
    for first, second in COMPARED:
        change = right(*second) - right(*first)
        resampled = interval(data, change.mean(axis=0))
        row = {"to": ", ".join(second), "from": ", ".join(first), **interval_cells(resampled)}
        if len(seeds) > 1:
            each = {seed: interval(data, own).value for seed, own in zip(seeds, change)}
            over = paired_difference(dict.fromkeys(each, 0.0), each)
            row |= {"seeds low": f"{over.low:.1f}", "seeds high": f"{over.high:.1f}"}
        rows.append(row | {"detectable": f"{2.8 * (resampled.high - resampled.low) / 3.92:.1f}"})
    print_table(rows, "Differences in points: recordings resampled, t over seeds, detectable = 2.8 standard errors")


def main() -> None:
    """Run the trial and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder with esc10.csv")
    parser.add_argument("--weights", type=Path, required=True, help="released mn04")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--work", type=Path, default=Path("runs/trials/distillation"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = Data(arguments.folder, arguments.weights)
    show(data, run_cells(data, arguments), arguments.seeds)


if __name__ == "__main__":
    main()

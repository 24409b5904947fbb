"""Does distillation help, does 8 bit hurt, do DIR and Freq-MixStyle help teacher or student, do copies for devices?

    python -m tests.benchmarks.trial_distillation --data made_up --responses MICIRP [--seeds 5] [--clips 600]
    python -m tests.benchmarks.trial_distillation --data esc10 --folder ESC10 --responses MICIRP [--seeds 5]

Each seed trains four teachers (low-complexity CP-ResNet with no method, FMS, DIR, both), a student (small CP-Mobile)
alone and taught by each of them, students with the methods themselves, and 8-bit students. made_up: tested on recording
devices that were trained with (real, seen) and on others (unseen); also with a copy for each training device. esc10:
one-second pieces; four folds are trained on as recorded, the fifth is tested as recorded (seen) and through microphones
whose responses nobody trained with (unseen). Every third piece is used, and few epochs: it is a trial. A stopped call
goes on with the seeds that are missing.
"""

import argparse
import copy
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common.data.audio import list_audio
from common.data.files import write_json
from common.data.loading import make_loader
from common.features.impulse_responses import DeviceImpulseResponses
from common.inference.quantize import convert, prepare_training, quantize_trained
from common.models.audio_model import AudioModel
from common.output import print_table, say
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from common.training.trainer import fit, make_trainer, seed_all
from task1_asc.data.clips import open_clips
from task1_asc.data.tau2022 import DEVICE_GROUPS, TRAINING_DEVICES, development_folder, read_split
from task1_asc.metrics import macro_accuracy
from task1_asc.networks.build import KEPT_FLOAT, input_shape
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.networks.teachers import each_teacher, make_teacher, teacher_settings
from task1_asc.settings import RampOptimSettings, Task1Settings
from task1_asc.train import QuantizedSceneTraining, SceneTraining
from tests.benchmarks.trial_device_generalisation import METHODS, MIXSTYLE, Figures, read_pieces

SMALL = Path("task1_asc/configs/distilled_small.yaml")
SAMPLE_RATE = 32000
FRONT_END = {"n_fft": 1024, "win_length": 1024, "hop_length": 1000, "n_mels": 32}
CALIBRATION = 128


@dataclass
class Clips:
    """Clips in memory that give batches as `open_clips` does."""

    waveform: torch.Tensor
    target: torch.Tensor
    recording_device: list[str]
    sample_rate: int = SAMPLE_RATE
    teacher_logits: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.waveform)

    def gather(self, indices: list[int]) -> dict[str, Any]:
        """A batch."""
        devices = [self.recording_device[index] for index in indices]
        batch = {"waveform": self.waveform[indices], "target": self.target[indices]}
        if self.teacher_logits is not None:
            batch["teacher_logits"] = self.teacher_logits[indices]
        return batch | {"filename": [str(index) for index in indices], "recording_device": devices}

    def only(self, device: str) -> "Clips":
        """Those of one recording device."""
        rows = [row for row, own in enumerate(self.recording_device) if own == device]
        return Clips(self.waveform[rows], self.target[rows], [device] * len(rows))


def settings_of(seed: int, method: str, responses: Path, arguments: argparse.Namespace) -> Task1Settings:
    """Settings of a student, and of its teacher, both with a method's augmentation."""
    mixstyle, impulse = METHODS[method]
    overrides: dict[str, Any] = {"seed": seed, "subset": 100, "trainer.epochs": arguments.epochs}
    overrides |= {"trainer.measure_energy": False, "distillation.teachers.0.epochs": arguments.epochs}
    overrides |= {f"front_end.{name}": value for name, value in FRONT_END.items()}
    overrides["distillation.teachers.0.front_end"] = FRONT_END
    level = {"folder": str(responses), "probability": 0.6}
    for place in ("augment", "distillation.teachers.0.augment"):
        overrides[f"{place}.frequency_mask"] = 4
        overrides[f"{place}.freq_mixstyle"] = MIXSTYLE if mixstyle else None
        overrides[f"{place}.impulse_responses"] = level if impulse else None
    return load_settings(Task1Settings, SMALL, overrides)


def train(settings: Task1Settings, clips: Any, model: AudioModel | None = None, module: Any = None) -> AudioModel:
    """Train a network; the trained model, in evaluation mode."""
    with tempfile.TemporaryDirectory() as folder:
        seed_all(settings.seed)
        module = module or SceneTraining(settings, SAMPLE_RATE, model)
        trainer = make_trainer(settings.trainer, Path(folder), settings.seed)
        fit(trainer, module, make_loader(clips, settings.loader.batch_size, shuffle_seed=settings.seed))
    return AudioModel(module.front_end, module.network).eval()


def train_teacher(settings: Task1Settings, clips: Clips) -> AudioModel:
    """The first teacher of the settings."""
    _, number, teacher = next(each_teacher(settings))
    own = teacher_settings(settings, teacher, number)
    seed_all(own.seed)
    return train(own, clips, make_teacher(teacher, SAMPLE_RATE, 100))


def logits_of(model: AudioModel, clips: Clips, copies: dict[str, Any] | None = None) -> np.ndarray:
    """(clips, classes), float32."""
    networks = {"it": DeviceNetworks(model.network, copies)}
    return classify_with(model.front_end, networks, make_loader(clips, 64))[0]["it"].astype(np.float32)


def to_int8(model: AudioModel, clips: Clips) -> AudioModel:
    """The model in 8 bit, as it is."""
    rows = list(range(0, len(clips), max(1, len(clips) // CALIBRATION)))
    with torch.no_grad():
        network = quantize_trained(model.network, [model.front_end(clips.waveform[rows])], KEPT_FLOAT)
    return AudioModel(model.front_end, network)


def train_int8(settings: Task1Settings, model: AudioModel, clips: Any) -> AudioModel:
    """The model in 8 bit, trained on with simulated 8 bit for a third of the epochs."""
    epochs = max(2, settings.trainer.epochs // 3)
    optim = RampOptimSettings(lr=5e-4, rise_epochs=0, fall_from=1, fall_epochs=max(1, epochs - 2), floor=0.1)
    own = settings.model_copy(
        update={"optim": optim, "trainer": settings.trainer.model_copy(update={"epochs": epochs})}
    )
    prepared = prepare_training(model.network, input_shape(settings), KEPT_FLOAT)
    module = QuantizedSceneTraining(own, SAMPLE_RATE, AudioModel(copy.deepcopy(model.front_end), prepared), 1)
    trained = train(own, clips, module=module)
    return AudioModel(model.front_end, convert(trained.network))


def tune_copies(settings: Task1Settings, model: AudioModel, clips: Clips) -> dict[str, Any]:
    """A copy of the network for each training device, trained on with its clips for half of the epochs."""
    tuned = settings.model_copy(
        update={
            "optim": settings.optim.model_copy(update={"lr": settings.optim.lr / 10}),
            "trainer": settings.trainer.model_copy(update={"epochs": max(1, settings.trainer.epochs // 2)}),
        }
    )
    copies = {}
    for device in TRAINING_DEVICES:
        own = clips.only(device)
        if len(own):
            copies[device] = train(tuned, own, copy.deepcopy(model)).network
    return copies


def one_seed(
    seed: int, clips: Clips, tests: dict[str, Clips], responses: Path, arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Arm to test set to macro accuracy."""
    found: dict[str, dict[str, float]] = {}

    def note(arm: str, model: AudioModel, copies: dict[str, Any] | None = None) -> None:
        started = time.monotonic()
        found[arm] = {
            name: macro_accuracy(logits_of(model, own, copies), own.target) for name, own in tests.items() if len(own)
        }
        figures = ", ".join(f"{name} {100 * value:.1f}" for name, value in found[arm].items())
        say(f"seed {seed}, {arm}: {figures} ({time.monotonic() - started:.1f} s)")

    plain = settings_of(seed, "none", responses, arguments)
    alone = train(plain, clips)
    note("student alone", alone)
    if arguments.data == "made_up":
        note("alone, copies for devices", alone, tune_copies(plain, alone, clips))
    taught_clips = None
    for method in METHODS:
        teacher = train_teacher(settings_of(seed, method, responses, arguments), clips)
        note(f"teacher {method}", teacher)
        taught_clips = replace(clips, teacher_logits=torch.as_tensor(logits_of(teacher, clips)))
        student = train(plain, taught_clips)
        note(f"taught by {method}", student)
    note("taught by DIR + FMS, int8", to_int8(student, clips))
    note("taught by DIR + FMS, int8 trained", train_int8(plain, student, taught_clips))
    for method in ("FMS", "DIR", "DIR + FMS"):
        student = train(settings_of(seed, method, responses, arguments), taught_clips)
        note(f"taught by DIR + FMS, student {method}", student)
    return found


def made_up_data(arguments: argparse.Namespace) -> tuple[Clips, dict[str, Clips]]:
    """Training clips, and those of each group of devices in the test split."""
    root = arguments.folder or arguments.work / "made_up"
    synthesize("task1_asc", root, arguments.clips)

    def read(table: pd.DataFrame) -> Clips:
        from common.data.audio import resample

        dataset = open_clips(table, development_folder(root))
        batch = dataset.gather(range(len(dataset)))
        return Clips(resample(batch["waveform"], 44100, SAMPLE_RATE), batch["target"], batch["recording_device"])

    test = read_split(root, "test")
    groups = {
        name: test[test["source_label"].isin(members)].reset_index(drop=True) for name, members in DEVICE_GROUPS.items()
    }
    return read(read_split(root, 100).reset_index(drop=True)), {
        "all": read(test.reset_index(drop=True)),
        **{name: read(own) for name, own in groups.items()},
    }


def made_up_trial(arguments: argparse.Namespace) -> Figures:
    """See the top."""
    clips, tests = made_up_data(arguments)
    say(f"{len(clips)} training clips, {len(tests['all'])} test clips")
    kept = Kept(arguments)
    for seed in kept.missing():
        kept.add(seed, one_seed(seed, clips, tests, arguments.responses, arguments))
    return collect(kept.found)


def esc10_trial(arguments: argparse.Namespace) -> Figures:
    """See the top."""
    table = pd.read_csv(arguments.folder / "esc10.csv")
    waveform, target, fold = read_pieces(arguments.folder, table)
    some = slice(None, None, 3)
    waveform, target, fold = waveform[some], target[some], fold[some]
    microphones = list_audio(arguments.responses)
    kept = Kept(arguments)
    for seed in kept.missing():
        order = np.random.default_rng(seed).permutation(len(microphones))
        with tempfile.TemporaryDirectory() as folder:
            halves = [Path(folder) / "train", Path(folder) / "test"]
            for half, chosen in zip(halves, np.array_split(order, 2)):
                half.mkdir()
                for number in chosen:
                    shutil.copy(microphones[number], half / microphones[number].name)
            tested = torch.from_numpy(fold == 1 + seed % 5)
            bank = DeviceImpulseResponses(halves[1], SAMPLE_RATE, level="unit_energy")
            generator = torch.Generator().manual_seed(seed)
            choice = torch.randint(len(bank.names), (int(tested.sum()),), generator=generator)
            own = {"seen": waveform[tested], "unseen": bank.convolve(waveform[tested], choice)}
            tests = {name: Clips(values, target[tested], ["a"] * len(values)) for name, values in own.items()}
            train_clips = Clips(waveform[~tested], target[~tested], ["a"] * int((~tested).sum()))
            kept.add(seed, one_seed(seed, train_clips, tests, halves[0], arguments))
    return collect(kept.found)


class Kept:
    """What came of each seed, kept in a file beside the arguments that it was made with."""

    def __init__(self, arguments: argparse.Namespace):
        self.path = arguments.work / f"figures_{arguments.data}.json"
        self.seeds = arguments.seeds
        self.made_with = {key: str(value) for key, value in vars(arguments).items() if key not in ("seeds", "work")}
        self.found: dict[int, dict[str, dict[str, float]]] = {}
        if self.path.is_file():
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["made_with"] == self.made_with:
                self.found = {int(seed): arms for seed, arms in content["seeds"].items()}

    def missing(self) -> list[int]:
        """Seeds that are still to be done."""
        return [seed for seed in range(self.seeds) if seed not in self.found]

    def add(self, seed: int, arms: dict[str, dict[str, float]]) -> None:
        """Keep a seed."""
        self.found[seed] = arms
        write_json(self.path, {"made_with": self.made_with, "seeds": self.found})


def collect(found: dict[int, dict[str, dict[str, float]]]) -> Figures:
    """Arm, test set, seed to figure."""
    figures: Figures = {}
    for seed, arms in found.items():
        for arm, values in arms.items():
            for name, value in values.items():
                figures.setdefault(arm, {}).setdefault(name, {})[seed] = value
    return figures


COMPARED = {
    "distilled": ("student alone", "taught by none"),
    "distilled, teacher with DIR + FMS": ("student alone", "taught by DIR + FMS"),
    "teacher: FMS": ("teacher none", "teacher FMS"),
    "teacher: DIR": ("teacher none", "teacher DIR"),
    "teacher: DIR + FMS": ("teacher none", "teacher DIR + FMS"),
    "student taught by FMS, not none": ("taught by none", "taught by FMS"),
    "student taught by DIR, not none": ("taught by none", "taught by DIR"),
    "student taught by DIR + FMS, not none": ("taught by none", "taught by DIR + FMS"),
    "student with FMS": ("taught by DIR + FMS", "taught by DIR + FMS, student FMS"),
    "student with DIR": ("taught by DIR + FMS", "taught by DIR + FMS, student DIR"),
    "student with DIR + FMS": ("taught by DIR + FMS", "taught by DIR + FMS, student DIR + FMS"),
    "int8": ("taught by DIR + FMS", "taught by DIR + FMS, int8"),
    "int8, trained": ("taught by DIR + FMS", "taught by DIR + FMS, int8 trained"),
    "copies for devices": ("student alone", "alone, copies for devices"),
}


def tables(figures: Figures) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Means of all arms, and the differences of those that are compared, seed by seed."""
    means = [
        {"arm": arm, **{name: _shown(*mean_interval(list(own.values()))) for name, own in values.items()}}
        for arm, values in figures.items()
    ]
    differences = []
    for what, (first, second) in COMPARED.items():
        if first in figures and second in figures and len(next(iter(figures[first].values()))) > 1:
            row = {"what": what}
            for name in figures[first]:
                found = paired_difference(figures[first][name], figures[second][name])
                row[name] = _shown(found.value, found.low, found.high)
            differences.append(row)
    return means, differences


def _shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} .. {100 * high:.1f})"


def main() -> None:
    """Run the trial, print its tables and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["made_up", "esc10"], required=True)
    parser.add_argument("--folder", type=Path, help="made_up: root of made-up data; esc10: folder with esc10.csv")
    parser.add_argument("--responses", type=Path, required=True, help="folder of impulse responses, such as MicIRP's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--clips", type=int, default=600, help="size of the made-up data")
    parser.add_argument("--work", type=Path, default=Path("runs/trials/distillation"))
    arguments = parser.parse_args()
    if arguments.data == "esc10" and arguments.folder is None:
        parser.error("--data esc10 needs --folder")
    figures = (made_up_trial if arguments.data == "made_up" else esc10_trial)(arguments)
    data = "made-up data" if arguments.data == "made_up" else "ESC-10 and MicIRP"
    means, differences = tables(figures)
    over = f"{arguments.seeds} seeds with 95 % interval (Student's t)"
    print_table(means, title=f"{data}: macro accuracy in %, mean over {over}")
    print_table(differences, title=f"{data}: differences in points of per cent, paired over {over}")


if __name__ == "__main__":
    main()

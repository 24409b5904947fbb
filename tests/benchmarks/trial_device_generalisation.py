"""Do Freq-MixStyle and device impulse responses help on unseen devices? None, each, both; over seeds, with intervals.

    python -m tests.benchmarks.trial_device_generalisation --data made_up --responses MICIRP [--seeds 5] [--epochs 15]
    python -m tests.benchmarks.trial_device_generalisation --data esc10 --folder ESC10 --responses MICIRP [--seeds 5]

made_up: the made-up Task 1 data, whose recording devices s4..s6 occur in the test split only; the responses augment
clips of device a. esc10: one-second pieces of ESC-10; each seed trains on four folds as they were recorded and draws
half of the microphones to augment with; the fifth fold is tested as it was recorded (seen) and through the other
microphones (unseen, each response scaled to unit energy). Settings are those of task1_asc/configs/small.yaml.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common.data.audio import list_audio, read_audio
from common.data.loading import make_loader
from common.features.impulse_responses import DeviceImpulseResponses
from common.output import print_table, say
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from task1_asc.metrics import macro_accuracy
from task1_asc.networks.build import make_model
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.recipe import RECIPE
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining

SMALL = Path("task1_asc/configs/small.yaml")
SAMPLE_RATE = 32000
MIXSTYLE = {"probability": 0.4, "alpha": 0.3}
METHODS = {"none": (False, False), "FMS": (True, False), "DIR": (False, True), "DIR + FMS": (True, True)}

Figures = dict[str, dict[str, dict[int, float]]]
"""Method, then group of devices, then seed, to accuracy."""


class Pieces:
    """Clips in memory that give batches as `SceneClips` does."""

    def __init__(self, waveform: torch.Tensor, target: torch.Tensor):
        self.waveform, self.target = waveform, target

    def __len__(self) -> int:
        return len(self.waveform)

    def gather(self, indices: list[int]) -> dict[str, Any]:
        """A batch; everything was recorded by device a."""
        names = [str(index) for index in indices]
        batch = {"waveform": self.waveform[indices], "target": self.target[indices]}
        return batch | {"filename": names, "recording_device": ["a"] * len(names)}


def settings_of(method: str, seed: int, responses: Path, arguments: argparse.Namespace, **places: str) -> Task1Settings:
    """Small settings with the method's augmentation."""
    mixstyle, impulse = METHODS[method]
    overrides: dict[str, Any] = {"seed": seed, "subset": 100, "trainer.epochs": arguments.epochs}
    overrides |= {"trainer.measure_energy": False, "trainer.accelerator": "auto", **places}
    overrides["augment.freq_mixstyle"] = MIXSTYLE if mixstyle else None
    level = {"folder": str(responses), "probability": 0.6, "level": arguments.level}
    overrides["augment.impulse_responses"] = level if impulse else None
    return load_settings(Task1Settings, SMALL, overrides)


def made_up_trial(arguments: argparse.Namespace) -> Figures:
    """Macro accuracy and accuracy of the groups of devices, on the test split of the made-up data."""
    root = arguments.folder or arguments.work / "made_up"
    synthesize("task1_asc", root, arguments.clips)
    figures: Figures = {}
    for seed in range(arguments.seeds):
        for method in METHODS:
            name = f"{method.replace(' ', '')}_{seed}"
            places = {"data.root": str(root), "runs": str(arguments.work), "name": name}
            scores = RECIPE.run(settings_of(method, seed, arguments.responses, arguments, **places)).read_evaluation()
            single = scores["float32"]
            groups = {group: part["accuracy"] for group, part in single["groups"].items() if part["clips"]}
            note(figures, method, seed, {"macro": single["macro_accuracy"]["value"], **groups})
    return figures


def esc10_trial(arguments: argparse.Namespace) -> Figures:
    """Macro accuracy on clips as they were recorded, and through microphones that training did not use."""
    table = pd.read_csv(arguments.folder / "esc10.csv")
    waveform, target, row = read_pieces(arguments.folder, table)
    fold = table["fold"].to_numpy()[row]
    microphones = list_audio(arguments.responses)
    figures: Figures = {}
    for seed in range(arguments.seeds):
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
            tests = {"seen": waveform[tested], "unseen": bank.convolve(waveform[tested], choice)}
            for method in METHODS:
                settings = settings_of(method, seed, halves[0], arguments)
                module = train_on(Pieces(waveform[~tested], target[~tested]), settings, Path(folder) / method)
                note(figures, method, seed, test_on(module, settings, tests, target[tested]))
    return figures


def read_pieces(folder: Path, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """One-second pieces (pieces, samples), classes (pieces,) and rows of the table (pieces,), without silent pieces."""
    classes = {name: number for number, name in enumerate(sorted(table["category"].unique()))}
    pieces, target, rows = [], [], []
    for number, row in enumerate(table.itertuples()):
        waveform = read_audio(folder / "audio" / row.filename, SAMPLE_RATE)
        for start in range(0, len(waveform) - SAMPLE_RATE + 1, SAMPLE_RATE):
            piece = waveform[start : start + SAMPLE_RATE]
            if np.abs(piece).max() > 1e-3:
                pieces.append(piece)
                target.append(classes[row.category])
                rows.append(number)
    return torch.from_numpy(np.stack(pieces)), torch.tensor(target), np.array(rows)


def train_on(clips: Pieces, settings: Task1Settings, folder: Path) -> SceneTraining:
    """Train with the settings' recipe."""
    seed_all(settings.seed)
    module = SceneTraining(settings, SAMPLE_RATE)
    trainer = make_trainer(settings.trainer, folder, settings.seed)
    fit(trainer, module, make_loader(clips, settings.loader.batch_size, shuffle_seed=settings.seed))
    return module


def test_on(
    module: SceneTraining, settings: Task1Settings, tests: dict[str, torch.Tensor], target: torch.Tensor
) -> dict[str, float]:
    """Macro accuracy on each of the test sets."""
    model = make_model(settings, SAMPLE_RATE).eval()
    model.network.load_state_dict(module.network.state_dict())
    figures = {}
    for name, waveform in tests.items():
        networks = {"float32": DeviceNetworks(model.network)}
        logits = classify_with(model.front_end, networks, make_loader(Pieces(waveform, target), 64))[0]["float32"]
        figures[name] = macro_accuracy(logits, target)
    return figures


def note(figures: Figures, method: str, seed: int, found: dict[str, float]) -> None:
    """Keep the figures of one training, and tell them."""
    for group, value in found.items():
        figures.setdefault(method, {}).setdefault(group, {})[seed] = value
    say(f"seed {seed}, {method}: " + ", ".join(f"{group} {100 * value:.1f}" for group, value in found.items()))


def rows_of(figures: Figures) -> list[dict[str, str]]:
    """Mean with its 95 % interval over seeds, and the difference to no method, seed by seed."""
    rows = []
    for method, groups in figures.items():
        row = {"method": method}
        for group, values in groups.items():
            row[group] = _shown(*mean_interval(list(values.values())))
            if method != "none" and len(values) > 1:
                difference = paired_difference(figures["none"][group], values)
                row[f"{group} - none"] = _shown(difference.value, difference.low, difference.high)
        rows.append(row)
    return rows


def _shown(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} ({100 * low:.1f} .. {100 * high:.1f})"


def main() -> None:
    """Run the trial, print its table and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["made_up", "esc10"], required=True)
    parser.add_argument("--folder", type=Path, help="made_up: root of made-up data; esc10: folder with esc10.csv")
    parser.add_argument("--responses", type=Path, required=True, help="folder of impulse responses, such as MicIRP's")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--clips", type=int, help="size of the made-up data")
    parser.add_argument("--level", choices=["as_measured", "unit_energy", "keep_rms"], default="as_measured")
    parser.add_argument("--work", type=Path, default=Path("runs/trials/devices"))
    arguments = parser.parse_args()
    if arguments.data == "esc10" and arguments.folder is None:
        parser.error("--data esc10 needs --folder")
    figures = (made_up_trial if arguments.data == "made_up" else esc10_trial)(arguments)
    title = f"{arguments.data}, accuracy in %, mean over {arguments.seeds} seeds with 95 % interval (Student's t)"
    print_table(rows_of(figures), title=title)
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.work / f"figures_{arguments.data}.json"
    path.write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(arguments).items()}, "figures": figures}))
    say(f"Kept in {path}.")


if __name__ == "__main__":
    main()

"""One stage-2 step of the winner's recipe of Task 4: this kit against a plain version of the same computation.

The plain step hears every clip for itself: impulse response, features (torchaudio's mel for the CRNN, the
transformer's front end), masks, mixup, MixStyle, filter and warping clip by clip, and it makes the features of student
and teacher separately. Networks, losses and optimiser are the same, and every augmentation is done in every step. Both
take turns. --cpu_time counts processor time, for a machine on which other programs run. The peak is that of the step's
tensors without weights, gradients and the optimiser's, which are known exactly.

    python -m tests.benchmarks.bench_stage2_step [--pairs 5] [--depth 2] [--dim 48] [--only atst] [--cpu_time]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio

from common.data.audio import write_wav
from common.data.files import human_size
from common.output import print_table
from common.settings import load_settings
from common.training.trainer import update_average
from task4_sed.augment import Mixture, Streams
from task4_sed.iterations.memory import estimate_training
from task4_sed.iterations.network import parameter_groups
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.iterations.views import Features, Targets, Views
from task4_sed.systems import AnySystem
from tests.support.allocations import allocations

SMALL = Path("task4_sed/configs/two_iterations_small.yaml")
NAMES = ("atst", "fpasst", "beats")
CLIPS = {"maestro": 3, "strong": 2, "synthetic": 2, "weak": 3, "unlabeled": 3}


def make_settings(depth: int, dim: int, responses: Path) -> TwoIterations:
    """The small configuration with BEATs' published batch and every augmentation in every step."""
    heads = dim // 24
    sizes = {"dim": dim, "depth": depth, "num_heads": heads}
    changes = {"data.root": "nowhere", "stage2.batch": CLIPS, "trainer.accelerator": "cpu"}
    changes["stage2.augment"] = {
        "impulse_responses": {"folder": str(responses), "probability": 1.0},
        "time_mask": {"pseudo_labels": "masked"},
        "mixup": {"probability": 1.0},
        "mixstyle": {"probability": 1.0},
        "filter": {"probability": 1.0, "on_log_mels": "add"},
        "frequency_warp": {"probability": 1.0, "maestro": True},
    }
    for name, model in zip(NAMES, ("atst_frame", "fpasst", "beats")):
        options = sizes | ({"hidden_dim": 4 * dim, "patch_dim": 64} if name == "beats" else {})
        changes[f"transformers.{name}"] = {"model": model, "untrained": True, "options": options}
    return load_settings(AnySystem, SMALL, changes)


def make_batch(seed: int) -> dict[str, torch.Tensor]:
    """A batch of noise with random labels."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(CLIPS.values())
    return {
        "waveform": 0.1 * torch.randn(count, 160_000, generator=generator),
        "strong": (torch.rand(count, 27, 156, generator=generator) > 0.9).float(),
        "weak": (torch.rand(count, 27, generator=generator) > 0.8).float(),
        "valid": torch.ones(count, 27, dtype=torch.bool),
    }


class KitStep:
    """What the recipe does."""

    def __init__(self, settings: TwoIterations, name: str):
        self.module = StageTraining(settings, name, 1, 2).train()
        self.optimizer = torch.optim.AdamW(parameter_groups(self.module.student, self.module.stage.optim))
        self.number = 0

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        """One step."""
        self.number += 1
        self.learn(self.module.views(batch, Streams(0, self.number)))

    def learn(self, views: Views) -> None:
        """Losses, backward pass, optimiser and teacher."""
        loss = torch.stack(list(self.module.losses(views, 100).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        update_average(self.module.teacher, self.module.student, 0.999)


class PlainStep(KitStep):
    """The same, clip by clip, and with features of student and teacher each for itself."""

    def __init__(self, settings: TwoIterations, name: str):
        super().__init__(settings, name)
        self.mel = torchaudio.transforms.MelSpectrogram(
            16000, n_fft=2048, win_length=2048, hop_length=256, f_min=0, f_max=8000,
            n_mels=settings.front_end.n_mels, power=1, window_fn=torch.hamming_window, wkwargs={"periodic": False},
            norm=None, mel_scale="htk",
        )  # fmt: skip
        self.random = np.random.default_rng(0)

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        """One step."""
        with torch.no_grad():
            self.learn_from(self.hear(batch))

    @torch.enable_grad()
    def learn_from(self, views: Views) -> None:
        """See `learn`."""
        self.learn(views)

    def hear(self, batch: dict[str, torch.Tensor]) -> Views:
        """Views of a batch."""
        rows = self.module.rows
        waveform, strong = batch["waveform"], batch["strong"]
        responses = self.module.augmenter.responses.responses
        waveform = torch.stack([
            torchaudio.functional.fftconvolve(clip, responses[self.random.integers(len(responses))])[: len(clip)]
            for clip in waveform
        ])  # fmt: skip
        clean = self._features(waveform)
        student = self._features(waveform)
        first = int(self.random.integers(0, 110))
        last = first + int(self.random.integers(7, 47))
        strong = strong.clone()
        for clip in range(rows.strong.start, rows.strong.stop):
            strong[clip, :, first:last] = 0
            for values in (*clean, *student):
                length = values.shape[-1]
                values[clip, ..., first * length // 156 : last * length // 156] = 0
        weight, partner = self._draw_mixture(rows)
        mixed = [self._mix(values, weight, partner) for values in student]
        labels, weak = self._mix(strong, weight, partner), self._mix(batch["weak"], weight, partner)
        valid = batch["valid"].clone()
        for clip, other in enumerate(partner):
            valid[clip] |= strong[other].amax(dim=1) > 0
        coloured = [self._filter(self._style(values, rows), number) for number, values in enumerate(mixed)]
        coloured[1] = self._warp(coloured[1], rows)
        targets = Targets(labels, weak, valid).masked()
        return Views(Features(*coloured), Features(*clean), targets, Mixture(weight, partner))

    def _features(self, waveform: torch.Tensor) -> list[torch.Tensor]:
        front_end = self.module.transformer_front_end
        magnitude = torch.stack([self.mel(clip)[None] for clip in waveform])
        return [magnitude, torch.cat([front_end(clip[None]) for clip in waveform])]

    def _draw_mixture(self, rows: object) -> tuple[torch.Tensor, torch.Tensor]:
        weight, partner = torch.ones(rows.count), torch.arange(rows.count)
        for part in rows.groups:
            b = self.random.beta(0.2, 0.2, part.stop - part.start)
            weight[part] = torch.from_numpy(np.maximum(b, 1 - b)).float()
            partner[part] = torch.from_numpy(self.random.permutation(np.arange(part.start, part.stop)))
        return weight, partner

    def _mix(self, values: torch.Tensor, weight: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        clips = [w * values[clip] + (1 - w) * values[other] for clip, (w, other) in enumerate(zip(weight, partner))]
        return torch.stack(clips)

    def _style(self, values: torch.Tensor, rows: object) -> torch.Tensor:
        styled = values.clone()
        for part in rows.groups:
            order = self.random.permutation(np.arange(part.start, part.stop))
            for clip, other in zip(range(part.start, part.stop), order):
                b = self.random.beta(0.3, 0.3)
                w = max(b, 1 - b)
                mean, deviation = (stat(values[clip], -1, keepdim=True) for stat in (torch.mean, torch.std))
                other_mean, other_deviation = (
                    stat(values[other], -1, keepdim=True) for stat in (torch.mean, torch.std)
                )
                normal = (values[clip] - mean) / (deviation + 1e-6)
                styled[clip] = normal * (w * deviation + (1 - w) * other_deviation) + w * mean + (1 - w) * other_mean
        return styled

    def _filter(self, values: torch.Tensor, number: int) -> torch.Tensor:
        n_mels = values.shape[2]
        count = int(self.random.integers(3, 6))
        inner = np.sort(self.random.integers(0, n_mels - count * 6 + 1, count - 1)) + 6 * np.arange(1, count)
        borders = [0, *inner.tolist(), n_mels]
        filtered = []
        for clip in values:
            gains = self.random.uniform(-6, 6, count + 1)
            curve = torch.cat([
                torch.linspace(gains[band], gains[band + 1], borders[band + 1] - borders[band])
                for band in range(count)
            ])[None, :, None]  # fmt: skip
            added = clip + curve * self.module.per_decibel
            filtered.append(added if number else clip * 10 ** (curve / 20))
        return torch.stack(filtered)

    def _warp(self, values: torch.Tensor, rows: object) -> torch.Tensor:
        parts = []
        for part in (rows.kinds["maestro"], rows.strong, *rows.groups[1:]):
            n_mels = values.shape[2]
            kept = int(self.random.uniform(0.6, 1) * n_mels)
            first = int(self.random.integers(0, n_mels - kept + 1))
            for clip in values[part]:
                crop = clip[None, :, first : first + kept]
                parts.append(F.interpolate(crop, size=values.shape[2:], mode="bicubic", align_corners=False))
        return torch.cat(parts)


def compare(settings: TwoIterations, name: str, pairs: int, clock: object) -> tuple[list[float], list[float]]:
    """Seconds of each step of either kind, taken in turns."""
    steps = [KitStep(settings, name), PlainStep(settings, name)]
    found: list[list[float]] = [[], []]
    for number in range(pairs + 1):
        batch = make_batch(number)
        for step, seconds in zip(steps, found):
            start = clock()
            step(batch)
            seconds.append(clock() - start)
    return found[0][1:], found[1][1:]


def measure_peak(step: KitStep) -> int:
    """The most bytes that the tensors of a step take at once, but for weights, gradients and the optimiser's."""
    batch = make_batch(0)
    step(batch)
    views, most, left = allocations(lambda: step.module.views(batch, Streams(0, 1)))
    loss, in_losses, kept = allocations(lambda: torch.stack(list(step.module.losses(views, 100).values())).sum())
    _, in_backward, _ = allocations(loss.backward)
    return max(most, left + in_losses, left + kept + in_backward)


def main() -> None:
    """Time both, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--dim", type=int, default=48)
    parser.add_argument("--only", nargs="+", choices=NAMES)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(4):
            response = np.random.default_rng(number).normal(size=4800) * np.exp(-np.arange(4800) / 300)
            write_wav(Path(folder) / f"{number}.wav", (0.1 * response).astype(np.float32), 16000)
        settings = make_settings(arguments.depth, arguments.dim, Path(folder))
        for name in arguments.only or NAMES:
            kit, plain = compare(settings, name, arguments.pairs, clock)
            step = KitStep(settings, name)
            memory, peak = estimate_training(step.module, "32-true"), measure_peak(step)
            ratio = statistics.median(b / a for a, b in zip(kit, plain))
            row = {"transformer": name, "kit, s": round(statistics.median(kit), 3)}
            row |= {"plain, s": round(statistics.median(plain), 3), "plain / kit": round(ratio, 2)}
            estimate = human_size(memory.activations + memory.batch)
            rows.append(row | {"peak of tensors": human_size(peak), "estimated": estimate})
    size = f"depth {arguments.depth}, width {arguments.dim}, {sum(CLIPS.values())} clips of 10 s, one core"
    print_table(rows, title=f"Stage-2 step, {size}, median of {arguments.pairs} pairs")


if __name__ == "__main__":
    main()

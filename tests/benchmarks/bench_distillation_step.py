"""The student's training step with the teacher's logits out of the file, against the teacher computed in each step.

    python -m tests.benchmarks.bench_distillation_step [--teacher cp_resnet_128k] [--batch 32] [--pairs 7] [--cpu_time]

Both steps train the same student (distilled.yaml) on the same clips with the same loss and take turns; the second also
runs the teacher, on the clips as recorded, as systems with a teacher online do. --teacher passt_s_swa is a transformer.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.models.network import channels_last
from common.registry.models import create_audio_model
from common.settings import load_settings
from task1_asc.data.tau2022 import CLASSES
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining

DISTILLED = Path("task1_asc/configs/distilled.yaml")
CLIPS = 4


class Step:
    """A training step of the student.

    Args:
        teacher: computed in the step, or None.
        logits: file of logits, where there is no teacher.
    """

    def __init__(self, waveforms: torch.Tensor, teacher: Any, logits: Path | None):
        settings = load_settings(Task1Settings, DISTILLED, {"augment.impulse_responses": None})
        self.module = SceneTraining(settings, 32000).train()
        channels_last(self.module.network)
        self.module.log = lambda *_, **__: None  # type: ignore[method-assign]
        self.optimizer = torch.optim.Adam(self.module.network.parameters(), lr=9e-4, weight_decay=1e-4)
        self.waveforms, self.teacher = waveforms, teacher
        self.outputs = None if logits is None else KeyedOutputs(logits, "logits")
        self.number = 0

    def __call__(self, indices: np.ndarray) -> None:
        """Train on the clips."""
        waveform = self.waveforms[indices]
        names = [f"{index}.wav" for index in indices]
        if self.outputs is not None:
            taught = torch.from_numpy(self.outputs.read(self.outputs.rows(names)).astype(np.float32))
        else:
            with torch.inference_mode():
                taught = self.teacher.run(waveform).logits.clone()
        target = torch.from_numpy(indices % len(CLASSES))
        batch = {"waveform": waveform, "target": target, "recording_device": ["a"] * len(indices)}
        self.number += 1
        loss = self.module.training_step({**batch, "teacher_logits": taught}, self.number)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main() -> None:
    """Print the median of each step and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="cp_resnet_128k")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--cpu_time", action="store_true")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    random = np.random.default_rng(0)
    waveforms = torch.from_numpy(0.1 * random.standard_normal((CLIPS * arguments.batch, 32000), dtype=np.float32))
    teacher = create_audio_model(arguments.teacher, labels=CLASSES).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.h5"
        names = [f"{number}.wav" for number in range(len(waveforms))]
        with OutputWriter(path, names, (len(CLASSES),)) as file:
            file.write(names, random.standard_normal((len(names), len(CLASSES))))
        steps = {"teacher in the step": Step(waveforms, teacher, None), "logits read": Step(waveforms, None, path)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for pair in range(arguments.pairs + 1):
            indices = random.permutation(len(waveforms))[: arguments.batch]
            for name, step in steps.items():
                start = clock()
                step(indices)
                if pair > 0:
                    times[name].append(clock() - start)
    ratios = [online / cached for online, cached in zip(*times.values())]
    medians = ", ".join(f"{name} {1000 * statistics.median(values):.0f} ms" for name, values in times.items())
    print(
        f"{arguments.teacher}, batch {arguments.batch}, {torch.get_num_threads()} threads: {medians}, median ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()

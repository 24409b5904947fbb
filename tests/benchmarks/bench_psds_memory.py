"""Peak memory of PSDS1 with the size of AudioSet strong: 400 classes, one after the other.

The store is written by a first process; a second one, which is measured, reads it and scores. Run from the root:

    python -m tests.benchmarks.bench_psds_memory [--clips 2000] [--classes 400]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from task4_sed.scores.store import ScoreWriter
from tests.support.made_up_scores import made_up_scores

BLOCK = 50


def write_store(folder: Path, num_clips: int, num_classes: int) -> int:
    """A store, its ground truth and durations; returns the bytes of scores."""
    events, durations = {}, {}
    classes = [f"class_{index:03d}" for index in range(num_classes)]
    with ScoreWriter(folder / "scores.h5", classes, kind="scores") as writer:
        for first in range(0, num_clips, BLOCK):
            scores, part, seconds = made_up_scores(BLOCK, num_classes, events_per_clip=8, seed=first)
            names = {clip: f"{first}_{clip}" for clip in scores}
            writer.write(list(names.values()), np.stack([table[classes].to_numpy() for table in scores.values()]))
            events |= {names[clip]: rows for clip, rows in part.items()}
            durations |= {names[clip]: value for clip, value in seconds.items()}
    (folder / "reference.json").write_text(json.dumps({"events": events, "durations": durations}))
    return (folder / "scores.h5").stat().st_size


def measure(folder: Path, alpha_st: float) -> None:
    """Score the store and print what it took."""
    from task4_sed.metrics import psds

    reference = json.loads((folder / "reference.json").read_text())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    found = psds(folder / "scores.h5", reference["events"], reference["durations"], alpha_st=alpha_st, jobs=2)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    draws = len(found.samples)
    print(
        f"alpha_st {alpha_st:g}: PSDS1 {found.value:.4f} {found.interval} ({draws} draws) in {seconds:.1f} s; peak "
        f"{after:.0f} MiB, {after - before:.0f} MiB more than before"
    )


def main() -> None:
    """Write, then measure in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alpha_st", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.alpha_st)
        return
    with tempfile.TemporaryDirectory() as name:
        size = write_store(Path(name), arguments.clips, arguments.classes)
        as_frames = arguments.clips * 156 * (arguments.classes + 2) * 8
        print(
            f"{arguments.clips} clips, {arguments.classes} classes: {size / 2**20:.0f} MiB on disk, "
            f"{as_frames / 2**20:.0f} MiB as data frames of all clips"
        )
        for alpha_st in (0.0, 1.0):
            words = [sys.executable, "-m", __spec__.name, "--measure", name, "--alpha_st", str(alpha_st)]
            subprocess.run(words, check=True)


if __name__ == "__main__":
    sys.exit(main())

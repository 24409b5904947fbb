"""How fast the teachers' targets of a batch are read: the kit's mapped store against per-item HDF5 access.

    python -m tests.benchmarks.bench_distillation_targets [--clips 2000] [--batch 64] [--pairs 7] [--folder DIR]

Both give probabilities (batch, 447, 250) of randomly chosen clips out of one file of float16 logits. The plain way does
what the published code does for each clip: look the name up, read the row through h5py, copy it, sigmoid, stack.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from common.data.files import human_size
from common.data.keyed_outputs import OutputWriter
from common.output import print_table, say
from task4_sed.pretraining.clips import CLASSES, KIND, TeacherTargets
from task4_sed.pretraining.tables import FRAMES


def write_store(path: Path, clips: int) -> list[str]:
    """A file of random logits; the names of its clips."""
    names = [f"Y{number:011d}" for number in range(clips)]
    random = np.random.default_rng(0)
    block = random.normal(-4, 2, (50, len(CLASSES), FRAMES)).astype(np.float32)
    with OutputWriter(path, names, (len(CLASSES), FRAMES), KIND) as writer:
        for first in range(0, clips, len(block)):
            part = names[first : first + len(block)]
            writer.write(part, block[: len(part)])
    return names


class PlainTargets:
    """One row at a time through h5py."""

    def __init__(self, path: Path):
        self.path = path
        self.file: h5py.File | None = None
        with h5py.File(path, "r") as file:
            self.place = {name.decode(): index for index, name in enumerate(file["filenames"])}

    def gather(self, names: list[str]) -> torch.Tensor:
        """(clips, 447, 250) probabilities."""
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        rows = [torch.from_numpy(np.stack(self.file[KIND][self.place[name]])).float() for name in names]
        return torch.stack([torch.sigmoid(row) for row in rows])


def main() -> None:
    """Time both ways in turn, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the file is written; left out, the system's temporary one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "logits.h5"
        names = write_store(path, arguments.clips)
        say(f"{arguments.clips} clips, {human_size(path.stat().st_size)}, in the file cache")
        ours, plain = TeacherTargets(path, names), PlainTargets(path)
        random = np.random.default_rng(1)
        times: dict[str, list[float]] = {"mapped store": [], "h5py, row by row": []}
        for pair in range(arguments.pairs + 1):
            rows = random.integers(len(names), size=arguments.batch)
            asked = [names[row] for row in rows]
            for way, read in (
                ("mapped store", lambda rows=rows: ours.gather(rows)),
                ("h5py, row by row", lambda asked=asked: plain.gather(asked)),
            ):
                started = time.perf_counter()
                values = read()
                if pair:  # the first pair warms up
                    times[way].append(time.perf_counter() - started)
                if way == "mapped store":
                    expected = values
            torch.testing.assert_close(values, expected)
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    ratio = statistics.median(b / a for a, b in zip(times["mapped store"], times["h5py, row by row"]))
    rows = [
        {"way": way, "ms a batch": f"{1000 * seconds:.1f}", "clips/s": f"{arguments.batch / seconds:,.0f}"}
        for way, seconds in medians.items()
    ]
    print_table(rows, title=f"Batches of {arguments.batch}; the mapped store is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()

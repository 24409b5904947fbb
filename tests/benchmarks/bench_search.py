"""Ranking metrics and exact search against the usual way of doing them, and how an index grows.

    python -m tests.benchmarks.bench_search [--pairs 11]          # one core: OMP_NUM_THREADS=1
    python -m tests.benchmarks.bench_search --grow FOLDER [--sizes 62500,250000,1000000]

Both sides run in turn; medians of processor time. The vectors are random. The growth is that of everything but the
network: empty files stand for the sounds, random vectors for their embeddings.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from retrieval.metrics import Ranks
from retrieval.search.answer import search
from retrieval.search.index import Index, build_index
from retrieval.search.ranking import PIECE, top_k
from retrieval.search.searcher import Rows, Searcher

QUERIES, CLIPS = 5225, 1045
DIM, CLASSES = 384, 527


def usual_metrics(similarity: Tensor, owner: Tensor) -> list[float]:
    """R@1, R@5, R@10 and mAP@10 of one relevant clip a caption from one topk, in salsa's order; ties as they fall."""
    ten = similarity.topk(10, dim=1)[1]
    found = [(ten[:, :k] == owner[:, None]).float().sum(dim=1).mean().item() for k in (1, 5, 10)]
    hit = ten == owner[:, None]
    precision = 1 / (hit.float().argmax(dim=1) + 1)
    precision[~hit.any(dim=1)] = 0
    return [*found, precision.mean().item()]


def our_metrics(similarity: Tensor, relevant: Tensor) -> list[float]:
    """The same and MRR, ties against the caption."""
    ranks = Ranks.of(similarity, relevant)
    found = [ranks.recall(k).mean().item() for k in (1, 5, 10)]
    return [*found, ranks.average_precision(10).mean().item(), ranks.reciprocal_rank().mean().item()]


def product(queries: Tensor, vectors: np.ndarray) -> None:
    """The products alone, in pieces."""
    for start in range(0, len(vectors), PIECE):
        queries @ torch.from_numpy(vectors[start : start + PIECE]).mT


def compare(name: str, pairs: int, aim: str, **sides: Callable[[], object]) -> None:
    """Print medians of alternating runs, and the first over each of the others."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(pairs + 1):
        for side, call in sides.items():
            start = time.process_time()
            call()
            if number:  # the first warms up
                times[side].append(time.process_time() - start)
    medians = {side: statistics.median(found) for side, found in times.items()}
    first = next(iter(medians.values()))
    shown = [f"{side.replace('_', ' ')} {1000 * value:.1f} ms ({value / first:.2f})" for side, value in medians.items()]
    print(f"{name}: {', '.join(shown)}; aim {aim}", flush=True)


def compare_all(pairs: int) -> None:
    """Metrics of a Clotho-sized test, search in a million vectors of 512."""
    rng = np.random.default_rng(0)
    similarity = torch.from_numpy(rng.standard_normal((QUERIES, CLIPS), dtype=np.float32))
    owner = torch.arange(QUERIES) // 5
    relevant = owner[:, None] == torch.arange(CLIPS)
    assert np.allclose(usual_metrics(similarity, owner), our_metrics(similarity, relevant)[:4], atol=1e-6)
    compare(
        f"metrics of {QUERIES} x {CLIPS}", pairs, "1.0 or less",
        usual=lambda: usual_metrics(similarity, owner), ours=lambda: our_metrics(similarity, relevant),
    )  # fmt: skip
    vectors = rng.standard_normal((1_000_000, 512), dtype=np.float32)
    half = vectors.astype(np.float16)
    for count in (1, 100):
        queries = torch.from_numpy(rng.standard_normal((count, 512), dtype=np.float32))
        compare(
            f"{count} queries in 1,000,000 of 512", pairs, "1.2 or less, 100 queries under 1 s",
            product=lambda queries=queries: product(queries, vectors),
            search=lambda queries=queries: top_k(queries, vectors, 10),
            search_in_half=lambda queries=queries: top_k(queries, half, 10),
        )  # fmt: skip


class MadeUp(Searcher):
    """Random vectors instead of embeddings."""

    def embed_files(self, paths: Sequence[Path], voice: bool = False) -> Tensor:
        """The vectors alone."""
        return torch.from_numpy(self.embed_rows(paths).vectors)

    def embed_rows(self, paths: Sequence[Path]) -> Rows:
        """A row for each path."""
        rng = np.random.default_rng(abs(hash(paths[0].name)))
        vectors = rng.standard_normal((len(paths), DIM), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Rows(vectors, np.full((len(paths), CLASSES), 0.01, np.float32), np.zeros((len(paths), 2), np.float32))


def grow(folder: Path, sizes: list[int]) -> None:
    """Each size in processes of its own: make the index, add a thousand files, search it."""
    print(f"{'files':>9s} {'index':>9s} {'memory':>9s} {'disk':>9s} {'1,000 more':>11s} {'search':>9s} {'memory':>9s}")
    for size in sizes:
        sounds, out = folder / "sounds", folder / "index"
        add_files(sounds, size)
        cells = [one("index", sounds, out)]
        disk = sum(path.stat().st_size for path in out.iterdir())
        add_files(sounds, size + 1000)
        cells += [one("index", sounds, out), one("search", sounds, out)]
        (made, memory), (more, _), (found, held) = cells
        line = f"{size:9,d} {made:7.1f} s {memory:5.0f} MiB {disk / 2**20:5.0f} MiB {more:9.1f} s"
        print(f"{line} {found:7.2f} s {held:5.0f} MiB", flush=True)
        shutil.rmtree(folder)


def add_files(sounds: Path, count: int) -> None:
    """Empty files up to a number, a thousand a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (sounds / f"{number // 1000:04d}").mkdir(parents=True, exist_ok=True)
        (sounds / f"{number // 1000:04d}" / f"{number:07d}.wav").touch()


def one(work: str, sounds: Path, out: Path) -> tuple[float, float]:
    """Processor seconds and peak MiB of a process that does one piece of work, without its start."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_search", "--one", work, str(sounds), str(out)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(found[0]), float(found[1])


def do(work: str, sounds: Path, out: Path) -> None:
    """For `one`."""
    start = time.process_time()
    if work == "index":
        build_index(MadeUp(None, 1.0, "made up", "made up"), None, sounds, out)  # type: ignore[arg-type]
    else:
        index = Index.read(out)
        index.__dict__["_searcher"] = MadeUp(None, 1.0, "made up")  # type: ignore[arg-type]
        search(index, example=sounds / "0000" / "0000000.wav")
    print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Print every comparison, or the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--grow", type=Path)
    parser.add_argument("--sizes", default="62500,250000,1000000")
    parser.add_argument("--one", nargs=3, help="internal")
    arguments = parser.parse_args()
    if arguments.one:
        work, sounds, out = arguments.one
        do(work, Path(sounds), Path(out))
    elif arguments.grow:
        grow(arguments.grow, [int(size) for size in arguments.sizes.split(",")])
    else:
        compare_all(arguments.pairs)


if __name__ == "__main__":
    main()

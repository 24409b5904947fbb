"""Making a packed store: decodes every clip once, in several processes, and resumes after an interruption."""

import fcntl
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.data import packed_store as store
from common.data.audio import AudioError, Waveform
from common.data.files import digest_files, human_size, write_json, write_text
from common.data.packed_store import Plan, StoreInfo
from common.errors import UserError
from common.output import Progress, say

BLOCK_BYTES = 8 * 2**20
DIGESTS = "digests.json"  # beside the stores

ReadRow = Callable[[dict], Waveform]


@dataclass(frozen=True)
class PackReport:
    """Result of `pack`."""

    folder: Path
    num_clips: int
    num_bytes: int
    packed: int
    """Clips that this call packed; 0 when the store was already there."""
    clipped: dict[str, int]
    """Samples beyond the range of int16, of the clips that have any."""
    seconds: float

    def __str__(self) -> str:
        what = f"{self.folder}: {self.num_clips} clips, {human_size(self.num_bytes)}"
        what += f", {self.packed} packed now in {self.seconds:.1f} s" if self.packed else ", already packed"
        if self.clipped:
            worst = max(self.clipped, key=lambda name: self.clipped[name])
            what += (
                f". {sum(self.clipped.values())} samples of {len(self.clipped)} clips were clipped to int16's range "
                f"(most in {worst}: {self.clipped[worst]}); float16 would keep them"
            )
        return what + "."


def pack(
    clips: pd.DataFrame,
    read: ReadRow,
    folder: Path,
    *,
    sample_rate: int,
    num_samples: int,
    dtype: str = "int16",
    root: Path | None = None,
    workers: int = 1,
) -> PackReport:
    """Make the packed store of a table of clips, or resume it; an equal store is kept.

    Args:
        clips: table with the column ``filename``; its order is the order of the array.
        read: gives the waveform (num_samples,) of a row (a dict); picklable when there are several workers.
        folder: of the store; made when absent.
        root: folder of the source files, to keep their sizes and digests and to refuse a store of changed files.

    Raises:
        UserError: if the folder holds a store of other data (with what differs), a clip cannot be read or has another
            length, two rows have the same file, or the disk is full.

    Waits for another process that packs the same folder.
    """
    begin = time.monotonic()
    folder = Path(folder)
    plan, table = _make_plan(clips, dtype, sample_rate, num_samples, root, folder.with_name(DIGESTS))
    if report := _finished(folder, plan, table):
        return report
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "packing.jsonl").open("a+", encoding="utf-8") as journal:
            _lock(journal, folder)
            if report := _finished(folder, plan, table):  # by another process since the first look
                (folder / "packing.jsonl").unlink(missing_ok=True)
                return report
            rows_digests = _rows_digests(plan, table)
            done = _resume(folder, plan, table, rows_digests, journal)
            before = sum(len(plan.rows(block)) for block in done)
            _reserve(folder / "waveforms.npy", plan, keep=bool(done))
            left = [block for block in range(plan.num_blocks) if block not in done]
            with Progress("Packing", plan.num_clips, done=before) as progress:
                for block, result in _pack_blocks(folder, plan, clips.to_dict("records"), read, workers, left):
                    done[block] = {**result, "rows_sha256": rows_digests[block]}
                    journal.write(json.dumps({"block": block, **done[block]}) + "\n")
                    journal.flush()
                    progress.advance(len(plan.rows(block)))
            with (folder / "waveforms.npy").open("rb+") as file:
                os.fsync(file.fileno())
            blocks = [done[block] for block in range(plan.num_blocks)]
            clipped = {name: count for block in blocks for name, count in block["clipped"].items()}
            info = StoreInfo(plan, [block["sha256"] for block in blocks], clipped)
            write_json(folder / "store.json", asdict(info))
            (folder / "packing.jsonl").unlink()
    except OSError as error:
        raise UserError(f"Cannot write the packed store {folder}: {error.strerror or error}.") from error
    seconds = time.monotonic() - begin
    return PackReport(folder, plan.num_clips, plan.file_bytes, plan.num_clips - before, clipped, seconds)


def _finished(folder: Path, plan: Plan, table: str) -> PackReport | None:
    """The report of a finished store, checked; None where there is none."""
    if not (folder / "store.json").is_file():
        return None
    info = store.read_info(folder)
    _refuse_other(folder, info.plan, plan, table)
    store.open_store(folder)  # checks it
    return PackReport(folder, plan.num_clips, plan.file_bytes, 0, info.clipped, 0.0)


def _lock(journal: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{folder} is being packed by another process; waiting for it.")
        fcntl.flock(journal, fcntl.LOCK_EX)


def _make_plan(
    clips: pd.DataFrame, dtype: str, sample_rate: int, num_samples: int, root: Path | None, memory: Path
) -> tuple[Plan, str]:
    """The plan, and the table as text, with size and digest of each file below `root`."""
    if dtype not in store.SCALES:
        raise UserError(f"A packed store holds {' or '.join(store.SCALES)}, not {dtype}.")
    if clips.empty:
        raise UserError("There are no clips to pack: the table is empty.")
    doubled = clips["filename"][clips["filename"].duplicated()]
    if len(doubled):
        raise UserError(f"The table names {doubled.iloc[0]} twice; each clip is packed once, take the second row out.")
    clips = clips.reset_index(drop=True)
    if root is not None:
        paths = [Path(root) / name for name in clips["filename"]]
        clips = clips.assign(size=[_stat(path).st_size for path in paths], sha256=digest_files(paths, memory))
    table = clips.to_csv(sep="\t", index=False, lineterminator="\n")
    block_clips = max(1, BLOCK_BYTES // (num_samples * np.dtype(dtype).itemsize))
    return Plan(dtype, sample_rate, num_samples, len(clips), store.digest(table.encode()), block_clips), table


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise AudioError(
            f"{path} does not exist, but the table names it; run `data check` to see what is missing."
        ) from error


def _refuse_other(folder: Path, old: Plan, new: Plan, table: str) -> None:
    path = folder / "clips.tsv"
    old_table = path.read_text(encoding="utf-8") if path.is_file() else "filename\n"
    found = store.differences(old, old_table, new, table)
    if found:
        raise UserError(
            f"{folder} was packed from other data: {'; '.join(found)}. Pack into another folder, or delete this one."
        )


def _resume(folder: Path, plan: Plan, table: str, rows_digests: list[str], journal: IO[str]) -> dict[int, dict]:
    """The finished blocks of an earlier call that are still whole; begins the journal where there are none."""
    journal.seek(0)
    lines = [_parse_line(line) for line in journal]
    done: dict[int, dict] = {}
    write_text(folder / "clips.tsv", table)
    if lines and lines[0]:
        # A faulty clip may have been replaced since: blocks of unchanged rows are kept.
        _refuse_other(folder, Plan(**{**lines[0], "table_sha256": plan.table_sha256}), plan, table)
        for entry in lines[1:]:
            block = entry.pop("block", plan.num_blocks)
            if block < plan.num_blocks and entry["rows_sha256"] == rows_digests[block]:
                done[block] = entry
        path = folder / "waveforms.npy"
        done = {block: entry for block, entry in done.items()
                if path.is_file() and store.digest(store.read_block(path, plan, block)) == entry["sha256"]}  # fmt: skip
    else:
        journal.truncate(0)
        journal.write(json.dumps(asdict(plan)))
    journal.write("\n")  # also ends a line that kill -9 cut
    return done


def _rows_digests(plan: Plan, table: str) -> list[str]:
    """A digest of each block's rows, with the columns' names."""
    columns, *lines = table.splitlines(keepends=True)
    blocks = [plan.rows(block) for block in range(plan.num_blocks)]
    return [store.digest("".join([columns, *lines[rows.start : rows.stop]]).encode()) for rows in blocks]


def _parse_line(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:  # an empty line, or one that kill -9 cut
        return {}


def _reserve(path: Path, plan: Plan, keep: bool) -> None:
    """Write the header and reserve the space, so that a full disk is noticed before hours of decoding."""
    with path.open("ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, plan.file_bytes)
        except OSError as error:
            if not keep:
                path.unlink()
            raise UserError(
                f"There is no room for {path}: it needs {human_size(plan.file_bytes)} ({error.strerror})."
            ) from error
        file.truncate(plan.file_bytes)
    with path.open("rb+") as file:
        file.write(plan.header)


def _pack_blocks(
    folder: Path, plan: Plan, rows: list[dict], read: ReadRow, workers: int, blocks: list[int]
) -> Iterator[tuple[int, dict]]:
    """Pack blocks in any order; yields the number, digest and clipped clips of each."""
    jobs = [(block, [rows[index] for index in plan.rows(block)]) for block in blocks]
    path = folder / "waveforms.npy"
    if workers <= 1 or len(jobs) <= 1:
        for block, block_rows in jobs:
            yield block, _pack_block(path, plan, read, block, block_rows)
        return
    # Not fork: it would copy the locks of torch's threads in any state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker) as pool:
        futures = {pool.submit(_pack_block, path, plan, read, block, part): block for block, part in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"A worker process ended while packing {folder} (no memory?); run `data pack` again with fewer workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _pack_block(path: Path, plan: Plan, read: ReadRow, block: int, rows: list[dict]) -> dict:
    samples = np.empty((len(rows), plan.num_samples), dtype=plan.dtype)
    clipped = {}
    for place, row in enumerate(rows):
        waveform = read(row)
        if waveform.shape != (plan.num_samples,):
            raise AudioError(
                f"{row['filename']} has the shape {waveform.shape}, expected {plan.num_samples} samples; pad or cut it "
                "when reading."
            )
        samples[place], count = encode(waveform, plan.dtype)
        if count:
            clipped[row["filename"]] = count
    data = samples.tobytes()
    with path.open("rb+") as file:
        file.seek(plan.offset(block))
        file.write(data)
    return {"sha256": store.digest(data), "clipped": clipped}


def encode(waveform: Waveform, dtype: str) -> tuple[NDArray, int]:
    """Convert to the stored type.

    Returns:
        The samples as `dtype`, and how many of them were beyond its range by more than one step (int16 only: float16
        reaches 65,504).
    """
    if dtype == "float16":
        return waveform.astype(np.float16), 0
    scaled = np.rint(waveform * store.SCALES["int16"])
    clipped = int(np.count_nonzero((scaled > 32768) | (scaled < -32768)))
    return np.clip(scaled, -32768, 32767).astype(np.int16), clipped


def _prepare_worker() -> None:
    """One thread per process; the process ends with its parent (also by kill -9)."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

"""The packed store: all clips of a fixed-length set as one array on disk, beside their table.

    waveforms.npy   (clips, samples), int16 or float16; any program with numpy can map it
    clips.tsv       the table, one row per clip in the array's order, with size and time of the source files
    store.json      rate, scale, digests; written last: with it, the store is complete
    packing.jsonl   only while packing: the plan, then one line per finished block

Packing resumes after an interruption, also by kill -9. No torch here: worker processes start quickly.
"""

import hashlib
import io
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from common.data.files import read_json
from common.errors import UserError

VERSION = 1
# int16 holds waveform * 32768, as soundfile reads a 16-bit file; float16 holds the waveform itself.
SCALES = {"int16": 32768.0, "float16": 1.0}


@dataclass(frozen=True)
class Plan:
    """Content and source of a store; stores with equal plans are equal."""

    dtype: str
    sample_rate: int
    num_samples: int
    num_clips: int
    table_sha256: str
    block_clips: int
    version: int = VERSION

    @property
    def num_blocks(self) -> int:
        """Blocks of `block_clips` clips, the last one shorter."""
        return -(-self.num_clips // self.block_clips)

    @property
    def header(self) -> bytes:
        """The .npy header in front of the samples."""
        buffer = io.BytesIO()
        shape = (self.num_clips, self.num_samples)
        description = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(buffer, description)
        return buffer.getvalue()

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip."""
        return self.num_samples * np.dtype(self.dtype).itemsize

    @property
    def file_bytes(self) -> int:
        """Bytes of waveforms.npy."""
        return len(self.header) + self.num_clips * self.clip_bytes

    def rows(self, block: int) -> range:
        """Rows of the table that a block holds."""
        return range(block * self.block_clips, min((block + 1) * self.block_clips, self.num_clips))

    def offset(self, block: int) -> int:
        """Position of a block in waveforms.npy, in bytes."""
        return len(self.header) + block * self.block_clips * self.clip_bytes


@dataclass(frozen=True)
class StoreInfo:
    """The content of store.json."""

    plan: Plan
    block_sha256: list[str]
    clipped: dict[str, int] = field(default_factory=dict)
    """Samples that int16 could not hold, of the clips that have any."""

    @property
    def scale(self) -> float:
        """Stored value of a waveform's 1.0."""
        return SCALES[self.plan.dtype]


def read_info(folder: Path) -> StoreInfo:
    """Read store.json.

    Raises:
        UserError: if there is no store, packing was not finished, or another version wrote the file.
    """
    folder = Path(folder)
    path = folder / "store.json"
    if not path.is_file():
        if (folder / "packing.jsonl").is_file():
            raise UserError(f"Packing of {folder} was not finished; `data pack` resumes it.")
        raise UserError(f"{folder} is not a packed store (no store.json); make it with `data pack`.")
    remedy = f"delete {folder} and run `data pack` again"
    content = read_json(path, remedy, {"plan": dict})
    try:
        if content["plan"]["version"] != VERSION:
            raise UserError(
                f"{folder} was packed in version {content['plan']['version']} of the layout, this kit reads {VERSION}; "
                "delete the folder and run `data pack` again."
            )
        return StoreInfo(Plan(**content["plan"]), content["block_sha256"], content["clipped"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}.") from error


def open_store(folder: Path) -> tuple[StoreInfo, pd.DataFrame]:
    """Content of store.json and clips.tsv, checked and read once in a process as long as the files do not change.

    Raises:
        UserError: as `read_info`; if a file is missing or does not fit its digest.
    """
    files = [Path(folder) / name for name in ("store.json", "clips.tsv", "waveforms.npy")]
    stats = [path.stat() for path in files if path.is_file()]
    return _open_store(Path(folder), tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats))


@lru_cache(maxsize=8)
def _open_store(folder: Path, _: tuple[tuple[int, ...], ...]) -> tuple[StoreInfo, pd.DataFrame]:
    if problems := verify(folder):
        raise UserError(" ".join(problems))
    return read_info(folder), pd.read_csv(folder / "clips.tsv", sep="\t", keep_default_na=False)


def digest(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def read_block(path: Path, plan: Plan, block: int) -> bytes:
    """The bytes of one block of waveforms.npy; fewer when the file ends early."""
    with path.open("rb") as file:
        file.seek(plan.offset(block))
        return file.read(len(plan.rows(block)) * plan.clip_bytes)


def verify(folder: Path, full: bool = False) -> list[str]:
    """Compare a store with its digests; returns a sentence for each fault.

    Without `full`, only sizes, the table, and the first, middle and last block are compared.

    Raises:
        UserError: if it is no finished store.
    """
    folder = Path(folder)
    info = read_info(folder)
    waveforms, table = folder / "waveforms.npy", folder / "clips.tsv"
    for path in (waveforms, table):
        if not path.is_file():
            return [f"{path} is missing; delete {folder} and run `data pack` again."]
    problems = []
    if digest(table.read_bytes()) != info.plan.table_sha256:
        problems.append(f"{table} was changed after packing; delete {folder} and run `data pack` again.")
    if waveforms.stat().st_size != info.plan.file_bytes:
        problems.append(f"{waveforms} has {waveforms.stat().st_size} bytes, expected {info.plan.file_bytes}.")
    last = info.plan.num_blocks - 1
    for block in range(last + 1) if full else sorted({0, last // 2, last}):
        if digest(read_block(waveforms, info.plan, block)) != info.block_sha256[block]:
            rows = info.plan.rows(block)
            problems.append(
                f"{waveforms}: clips {rows.start} to {rows.stop - 1} are not what was packed; "
                f"delete {folder} and run `data pack` again."
            )
    return problems


def differences(old: Plan, old_table: str, new: Plan, new_table: str) -> list[str]:
    """Differences between the plan of a store and another plan."""
    found = [
        f"{name} was {getattr(old, name)}, is now {getattr(new, name)}"
        for name in ("dtype", "sample_rate", "num_samples", "version")
        if getattr(old, name) != getattr(new, name)
    ]
    if old.table_sha256 != new.table_sha256:
        tables = [pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False)
                  for text in (old_table, new_table)]  # fmt: skip
        found += _table_differences(*tables)
    return found


def _table_differences(old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    if "mtime_ns" in old.columns:  # of earlier versions; a copy of the data has other times
        old, new = old.drop(columns="mtime_ns"), new.drop(columns="sha256", errors="ignore")
    if list(old.columns) != list(new.columns):
        return [f"the table's columns were {' '.join(old.columns)}, are now {' '.join(new.columns)}"]
    found = []
    gone, added = set(old["filename"]) - set(new["filename"]), set(new["filename"]) - set(old["filename"])
    if gone:
        found.append(f"{len(gone)} clips are gone (first {min(gone)})")
    if added:
        found.append(f"{len(added)} clips are new (first {min(added)})")
    if found:
        return found
    stats = [name for name in ("size", "sha256") if name in old.columns]
    others = [name for name in old.columns if name not in (*stats, "filename")]
    order = new["filename"]
    old, new = old.set_index("filename"), new.set_index("filename").loc[old["filename"]]
    for columns, what in ((stats, "files"), (others, "rows of the table")):
        changed = old.index[(old[columns] != new[columns]).any(axis=1)]
        if len(changed):
            found.append(f"{len(changed)} {what} changed (first {changed[0]})")
    same_order = list(old.index) == list(order)
    return found or ([] if same_order else ["the order of the clips changed"])

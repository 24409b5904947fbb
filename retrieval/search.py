"""Search a folder of audio: by words, by example, by voice. Exact, by matrix products in pieces."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.data.audio import AudioError, list_audio, read_blocks
from common.data.files import compute_sha256, read_json, write_json
from common.errors import UserError
from common.output import Progress, say
from common.runs.folder import SETTINGS_FILE
from common.runs.helper import answer_lines
from common.runs.stages import Run
from common.settings.yaml_file import read_yaml
from retrieval import recipe as text_recipe
from retrieval.data.clips import split_windows
from retrieval.imitation import recipe as imitation_recipe
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import ImitationSettings
from retrieval.model import DualEncoder, embed_captions
from retrieval.settings import RetrievalSettings

FILES_PER_BLOCK = 64
WINDOWS_AT_ONCE = 16
PAGE_HITS = 10
PLAN = "plan.json"
STATE = "state.json"  # of an index that is being made


@dataclass
class Searcher:
    """A trained model as the search uses it.

    model: of text-to-audio retrieval or of vocal imitation.
    window: seconds of one input of the encoder.
    identity: digest of the weights; an index of another model is refused.
    """

    model: DualEncoder | ImitationModel
    window: float
    identity: str

    @torch.inference_mode()
    def embed_files(self, paths: Sequence[Path], voice: bool = False) -> Tensor:
        """Files of any length to unit vectors (paths, dim): the mean over windows, in constant memory."""
        total: list[Tensor | float] = [0.0] * len(paths)
        count = [0] * len(paths)
        device, every = next(self.model.parameters()).device, self._windows(paths)
        while batch := list(islice(every, WINDOWS_AT_ONCE)):
            windows = torch.stack([window for window, _, _ in batch]).to(device)
            if isinstance(self.model, DualEncoder):
                steps = self.model.encode_windows(windows)
            else:
                steps = (self.model.voice if voice else self.model.recording)(windows).embedding[:, None]
            for row, (_, length, file) in enumerate(batch):
                counted = -(-length * steps.shape[1] // windows.shape[1])
                total[file] = total[file] + steps[row, :counted].sum(dim=0)
                count[file] += counted
        mean = torch.stack([torch.as_tensor(t) / c for t, c in zip(total, count, strict=True)])
        if isinstance(self.model, DualEncoder):
            mean = self.model.project_audio(mean)
        return functional.normalize(mean.float(), dim=1).cpu()

    def _windows(self, paths: Sequence[Path]) -> Iterator[tuple[Tensor, int, int]]:
        """Windows of consecutive files; for each its samples before padding, and the number of its file."""
        size = round(self.window * self.model.sample_rate)
        for number, path in enumerate(paths):
            for block in read_blocks(path, self.window, self.model.sample_rate):
                for start, window in enumerate(split_windows(torch.from_numpy(block.copy()), size)):
                    yield window, min(size, len(block) - start * size), number


def open_run(folder: Path) -> Run[RetrievalSettings] | Run[ImitationSettings]:
    """The run in a folder, of text-to-audio retrieval or of vocal imitation.

    Raises:
        UserError: if there is none, or it is one of another task.
    """
    path = folder / SETTINGS_FILE
    data = read_yaml(path).data if path.is_file() else None
    if isinstance(data, dict) and data.get("kind") == "imitation":
        return imitation_recipe.RECIPE.open(folder)
    return text_recipe.RECIPE.open(folder)


def load_searcher(folder: Path) -> Searcher:
    """The first model of a run, of stage 2 where there is one."""
    run = open_run(folder)
    if isinstance(run.settings, ImitationSettings):
        model = imitation_recipe.load_imitation_model(run)
        return Searcher(model, run.settings.data.duration, compute_sha256(imitation_recipe.find_checkpoint(run)))
    name = next(iter(run.settings.models))
    best = run.checkpoint(f"distilled_{name}/best.ckpt", f"contrastive_{name}/best.ckpt")
    dual = text_recipe.load_model(run, name, best.parent.name.partition("_")[0])
    return Searcher(dual, run.settings.data.window, compute_sha256(best))


def build_index(searcher: Searcher, run: Path, folder: Path, out: Path, skip_unreadable: bool = False) -> int:
    """Embed every audio file below `folder` into the index `out`; an interrupted call resumes with the next block.

    out/vectors.npy (files, dim) float32, unit length; out/index.json written last: file names, model, folder.

    The folder `run` of the model is stored, so that a search finds it again. With `skip_unreadable`, files that cannot
    be read are left out and named; otherwise the first one ends the call. Returns the number of files in the index.
    """
    names = [str(path.relative_to(folder)) for path in list_audio(folder)]
    plan = {"model": searcher.identity, "folder": str(folder.resolve()), "files": names}
    _claim(out, plan)
    state: dict[str, Any] = {"done": 0, "unreadable": {}}
    if (out / STATE).is_file():
        state = read_json(out / STATE, f"delete {out} and index again", {"done": int, "unreadable": dict})
    unreadable: dict[str, str] = state["unreadable"]
    with Progress("Indexing", len(names), unit="files") as progress:
        progress.advance(state["done"])
        for start in range(state["done"], len(names), FILES_PER_BLOCK):
            chosen = names[start : start + FILES_PER_BLOCK]
            first = start - len(unreadable)
            vectors = _embed_block(searcher, folder, chosen, unreadable if skip_unreadable else None)
            if len(vectors):
                mode: Any = "r+" if first else "w+"
                shape = (len(names), vectors.shape[1])
                mapped = np.lib.format.open_memmap(out / "vectors.npy", mode=mode, dtype=np.float32, shape=shape)
                mapped[first : first + len(vectors)] = vectors
                mapped.flush()
            write_json(out / STATE, {"done": start + len(chosen), "unreadable": unreadable})
            progress.advance(len(chosen))
    kept = [name for name in names if name not in unreadable]
    if not kept:
        raise UserError(f"None of the {len(names)} files below {folder} could be read.")
    understands = "text" if isinstance(searcher.model, DualEncoder) else "voice"
    more = {"run": os.path.relpath(run, out), "unreadable": unreadable, "understands": understands}
    write_json(out / "index.json", {**plan, "files": kept, **more})
    for name, reason in unreadable.items():
        say(f"left out {name}: {reason}")
    return len(kept)


@dataclass
class Index:
    """A finished index; the vectors stay on disk.

    vectors: (files, dim) float32, memory-mapped, unit length.
    """

    folder: Path
    files: list[str]
    vectors: np.ndarray
    model: str
    run: Path

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Open an index.

        Raises:
            UserError: if it is missing or not finished.
        """
        path = folder / "index.json"
        if not path.is_file():
            state = "is not finished; run the same `index` again" if (folder / PLAN).is_file() else "is no index"
            raise UserError(f"{folder} {state}.")
        info = read_json(path, "index again", {"files": list, "model": str, "run": str})
        try:
            vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder / 'vectors.npy'} is missing or cut off; index again.") from error
        count = len(info["files"])
        if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) < count or not vectors.size:
            found = f"vectors {vectors.dtype} {vectors.shape}, {count} files"
            raise UserError(f"{folder} is damaged: {found}; index again.")
        return cls(folder, info["files"], vectors[:count], info["model"], folder / info["run"])

    def searcher(self) -> Searcher:
        """The model that made the index.

        Raises:
            UserError: if the run's model has changed since.
        """
        searcher = load_searcher(self.run)
        if searcher.identity != self.model:
            raise UserError(f"{self.folder} was made by another model than {self.run} now holds. Index again.")
        return searcher


def top_k(queries: Tensor, vectors: np.ndarray, k: int, chunk: int = 131072) -> tuple[Tensor, Tensor]:
    """The `k` most similar vectors of each query, exactly; memory is bounded by (queries + dim) x chunk.

    Args:
        queries: (queries, dim), unit length.
        vectors: (vectors, dim) float32 or float16, may be memory-mapped; `chunk` of them are compared at once.

    Returns:
        Similarities and rows, both (queries, k), best first; equal similarities in the order of the rows.
    """
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} do not fit vectors {vectors.shape}")
    k = min(k, len(vectors))
    best = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(vectors), chunk):
        piece = torch.from_numpy(np.array(vectors[start : start + chunk], dtype=np.float32))
        if not piece.isfinite().all():
            row = start + int((~piece.isfinite()).any(dim=1).nonzero()[0])
            raise UserError(f"Vector {row} of the index holds NaN or infinity. Index again.")
        similarity = queries.float() @ piece.mT
        found, at = similarity.topk(min(k, len(piece)), dim=1)
        if ((similarity >= found[:, -1:]).sum(dim=1) > found.shape[1]).any():  # a tie at the end: topk may take any
            found, at = (part[:, : found.shape[1]] for part in similarity.sort(dim=1, descending=True, stable=True))
        best = torch.cat([best, found], dim=1)
        rows = torch.cat([rows, at + start], dim=1)
        # Stable: of equal similarities the earlier row stays in front.
        by_row = rows.argsort(dim=1, stable=True)
        best, rows = best.gather(1, by_row), rows.gather(1, by_row)
        order = best.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, rows = best.gather(1, order), rows.gather(1, order)
    return best, rows


def search(
    index: Index,
    text: str | None = None,
    voice: Path | None = None,
    example: Path | None = None,
    top: int = 5,
    searcher: Searcher | None = None,
) -> list[dict[str, Any]]:
    """Rows rank, file, similarity of the files that fit a query best; exactly one query is given.

    `searcher` is the loaded model of the index, for further queries.

    Raises:
        UserError: if no or several queries are given, or the index takes others.
    """
    given = {"words": text, "--voice": voice, "--example": example}
    if sum(value is not None for value in given.values()) != 1:
        raise UserError('Give one query, words, --voice FILE or --example FILE: search "a dog barks" --index INDEX')
    searcher = searcher or index.searcher()
    if text is not None:
        if not isinstance(searcher.model, DualEncoder):
            raise UserError("This index was made by a model of vocal imitation; search it with --voice or --example.")
        query = embed_captions(searcher.model, [text])
    elif voice is not None:
        if isinstance(searcher.model, DualEncoder):
            raise UserError("This index was made by a model of text; search it by words, or with --example.")
        query = searcher.embed_files([voice], voice=True)
    else:
        query = searcher.embed_files([Path(example or "")])
    similarity, rows = top_k(query, index.vectors, top)
    return [
        {"rank": rank, "file": index.files[row], "similarity": round(value, 4)}
        for rank, (row, value) in enumerate(zip(rows[0].tolist(), similarity[0].tolist(), strict=True), start=1)
    ]


def answer_queries(folder: Path) -> None:
    """Answer the queries of `common serve` over an index until stdin ends, see `common.runs.helper`."""
    index = Index.read(folder)
    searcher = index.searcher()
    understands = ["text"] if isinstance(searcher.model, DualEncoder) else ["voice"]
    audio = read_json(folder / "index.json", "index again")["folder"]
    facts = {"folder": audio, "understands": [*understands, "example"], "files": len(index.files)}

    def answer(**query: Any) -> dict[str, Any]:
        return {"notes": [], "hits": search(index, **query, top=PAGE_HITS, searcher=searcher)}

    answer_lines(facts, answer)


def _embed_block(
    searcher: Searcher, folder: Path, names: Sequence[str], unreadable: dict[str, str] | None
) -> NDArray[np.float32]:
    """Vectors of the readable files; the others go to `unreadable`, where it is given."""
    try:
        return searcher.embed_files([folder / name for name in names]).numpy()
    except AudioError:
        if unreadable is None:
            raise
    found = [np.empty((0, 0), np.float32)]
    for name in names:  # one by one, to find the bad ones
        try:
            found.append(searcher.embed_files([folder / name]).numpy())
        except AudioError as error:
            unreadable[name] = str(error)
    return np.concatenate(found[1:] or found)


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Resume an index of the same model and files, refuse any other."""
    path = out / PLAN
    if path.is_file():
        old = read_json(path, f"delete {out} and index again")
        if old == plan:
            return
        changed = [key for key in plan if old.get(key) != plan[key]]
        raise UserError(f"{out} is an index of another {', '.join(changed)}; choose another --out or delete it.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; choose another --out.")
    write_json(path, plan)

"""Search a folder of audio: by words, by example, by voice. Exact, by matrix products in pieces."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.cli.arguments import SETTINGS_FILE
from common.data.audio import AudioError, list_audio, read_blocks
from common.errors import UserError
from common.files import atomic_path, sha256_of, write_json
from common.output import Progress, say
from common.runs.stages import Run
from common.settings import load_settings
from common.settings.yaml_file import read_yaml
from retrieval.clips import split_windows
from retrieval.imitation.settings import ImitationSettings
from retrieval.imitation.train import ImitationModel, load_imitation_model
from retrieval.model import DualEncoder
from retrieval.recipe import load_model
from retrieval.settings import RetrievalSettings
from retrieval.train import embed_captions

FILES_PER_BLOCK = 64
WINDOWS_AT_ONCE = 16


@dataclass
class Searcher:
    """A trained model as the search uses it.

    model: of text-to-audio retrieval or of vocal imitation.
    window: seconds that the encoder gets at once.
    identity: digest of the weights; an index of another model is refused.
    """

    model: DualEncoder | ImitationModel
    window: float
    identity: str

    @property
    def understands(self) -> str:
        """What the model can be asked with: "text" or "voice"; both can be asked by example."""
        return "text" if isinstance(self.model, DualEncoder) else "voice"

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.model.audio.sample_rate if isinstance(self.model, DualEncoder) else self.model.sample_rate

    @torch.inference_mode()
    def embed_files(self, paths: Sequence[Path], voice: bool = False) -> Tensor:
        """Files of any length to unit vectors (paths, dim): the mean over windows, in constant memory."""
        total: list[Tensor | float] = [0.0] * len(paths)
        count = [0] * len(paths)
        for windows, owner in _batches(paths, self.sample_rate, self.window):
            embeddings = self._encode(windows, voice)
            for row, file in enumerate(owner):
                total[file] = total[file] + embeddings[row]
                count[file] += 1
        if 0 in count:
            raise AudioError(f"{paths[count.index(0)]} holds no samples.")
        mean = torch.stack([torch.as_tensor(t) / c for t, c in zip(total, count, strict=True)])
        if isinstance(self.model, DualEncoder):
            mean = self.model.project_audio(mean)
        return functional.normalize(mean.float(), dim=1).cpu()

    def _encode(self, windows: Tensor, voice: bool) -> Tensor:
        windows = windows.to(next(self.model.parameters()).device)
        if isinstance(self.model, DualEncoder):
            return self.model.audio(windows).embedding
        return (self.model.voice if voice else self.model.recording)(windows).embedding

    def embed_text(self, text: Sequence[str]) -> Tensor:
        """Queries in words to unit vectors.

        Raises:
            UserError: if the model knows voices only.
        """
        if not isinstance(self.model, DualEncoder):
            raise UserError("This index was made by a model of vocal imitation; ask it with --voice or --example.")
        return embed_captions(self.model, text)


def load_searcher(run: Path, name: str | None = None) -> Searcher:
    """The best model of a run: stage 2 where there is one.

    Args:
        run: run folder of text-to-audio retrieval or vocal imitation.
        name: which of its models; None takes the first.
    """
    if not (run / SETTINGS_FILE).is_file():
        raise UserError(f"{run} is no run folder: it has no {SETTINGS_FILE}.")
    kind = read_yaml(run / SETTINGS_FILE).data.get("kind")
    if kind == "imitation":
        settings = load_settings(ImitationSettings, run / SETTINGS_FILE)
        model = load_imitation_model(Run(run, settings), settings)
        return Searcher(model, settings.data.duration, sha256_of(run / "train" / "best.ckpt"))
    text = load_settings(RetrievalSettings, run / SETTINGS_FILE)
    name = name or next(iter(text.models))
    stage = "distilled" if (run / f"distilled_{name}" / "best.ckpt").is_file() else "contrastive"
    dual = load_model(Run(run, text), text, name, stage)
    return Searcher(dual, text.data.window, sha256_of(run / f"{stage}_{name}" / "best.ckpt"))


def build_index(searcher: Searcher, run: Path, folder: Path, out: Path, skip_unreadable: bool = False) -> int:
    """Embed every audio file below `folder` into the index `out`; a stopped call goes on with the next block.

    out/vectors.npy (files, dim) float32, unit length; out/index.json written last: file names, model, folder.

    Args:
        searcher: the model.
        run: where it came from; stored so that a search finds it again.
        folder: searched for audio, also in its folders.
        out: folder of the index.
        skip_unreadable: leave out and name files that cannot be read, instead of stopping at the first.

    Returns:
        Files in the index.
    """
    names = [str(path.relative_to(folder)) for path in list_audio(folder)]
    plan = {"model": searcher.identity, "folder": str(folder.resolve()), "files": names}
    _claim(out, plan)
    blocks = range(0, len(names), FILES_PER_BLOCK)
    unreadable: dict[str, str] = {}
    with Progress("Indexing", len(names), unit="files") as progress:
        for start in blocks:
            part = out / "parts" / f"{start:08d}.npz"
            chosen = names[start : start + FILES_PER_BLOCK]
            if not part.is_file():
                _embed_block(searcher, folder, chosen, part, skip_unreadable)
            with np.load(part) as data:
                unreadable |= dict(zip(data["unreadable"].tolist(), data["reasons"].tolist(), strict=True))
            progress.advance(len(chosen))
    kept = [name for name in names if name not in unreadable]
    if not kept:
        raise UserError(f"None of the {len(names)} files below {folder} could be read.")
    _join(out, blocks, len(kept))
    info = {
        **plan,
        "files": kept,
        "run": os.path.relpath(run, out),
        "unreadable": unreadable,
        "understands": searcher.understands,
    }
    write_json(out / "index.json", info)
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
    audio_folder: Path

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Open an index.

        Raises:
            UserError: if it is not there or not finished.
        """
        path = folder / "index.json"
        if not path.is_file():
            state = "is not finished; run the same `index` again" if (folder / "parts").is_dir() else "is no index"
            raise UserError(f"{folder} {state}.")
        info = json.loads(path.read_text(encoding="utf-8"))
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        if len(vectors) != len(info["files"]):
            raise UserError(f"{folder} is damaged: {len(vectors)} vectors, {len(info['files'])} files. Index again.")
        return cls(folder, info["files"], vectors, info["model"], folder / info["run"], Path(info["folder"]))

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
        vectors: (vectors, dim) float32 or float16, may be memory-mapped.
        k: at most as many as there are vectors.
        chunk: vectors compared at once.

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
    index: Index, text: str | None = None, voice: Path | None = None, example: Path | None = None, top: int = 5
) -> list[dict]:
    """Rows rank, file, similarity of the files that fit a query best; exactly one kind of query is given.

    Raises:
        UserError: if no or several queries are given, or the index cannot be asked that way.
    """
    given = {"words": text, "--voice": voice, "--example": example}
    if sum(value is not None for value in given.values()) != 1:
        raise UserError(
            'Ask with words, --voice FILE or --example FILE, one of them: search "a dog barks" --index INDEX'
        )
    searcher = index.searcher()
    if text is not None:
        query = searcher.embed_text([text])
    elif voice is not None:
        if searcher.understands != "voice":
            raise UserError(
                "This index was made by a model of text; ask it in words, or with --example for like sounds."
            )
        query = searcher.embed_files([voice], voice=True)
    else:
        query = searcher.embed_files([Path(example or "")])
    similarity, rows = top_k(query, index.vectors, top)
    return [
        {"rank": rank, "file": index.files[row], "similarity": round(value, 4)}
        for rank, (row, value) in enumerate(zip(rows[0].tolist(), similarity[0].tolist(), strict=True), start=1)
    ]


def _batches(paths: Sequence[Path], sample_rate: int, window: float) -> Iterator[tuple[Tensor, list[int]]]:
    """Windows of consecutive files, up to WINDOWS_AT_ONCE together, with the number of the file of each."""
    pending: list[Tensor] = []
    owner: list[int] = []
    for number, path in enumerate(paths):
        for block in read_blocks(path, window, sample_rate):
            for piece in split_windows(torch.from_numpy(np.ascontiguousarray(block)), round(window * sample_rate)):
                pending.append(piece)
                owner.append(number)
                if len(pending) == WINDOWS_AT_ONCE:
                    yield torch.stack(pending), owner
                    pending, owner = [], []
    if pending:
        yield torch.stack(pending), owner


def _embed_block(searcher: Searcher, folder: Path, names: list[str], part: Path, skip_unreadable: bool) -> None:
    unreadable: dict[str, str] = {}
    try:
        vectors = searcher.embed_files([folder / name for name in names])
    except AudioError:
        if not skip_unreadable:
            raise
        found = []
        for name in names:  # one by one, to tell the bad ones from the good
            try:
                found.append(searcher.embed_files([folder / name]))
            except AudioError as error:
                unreadable[name] = str(error)
        vectors = torch.cat(found) if found else torch.empty(0, 0)
    with atomic_path(part) as temporary, temporary.open("wb") as file:
        reasons = np.array(list(unreadable.values()), dtype=np.str_)
        np.savez(file, vectors=vectors.numpy(), unreadable=np.array(list(unreadable), dtype=np.str_), reasons=reasons)


def _claim(out: Path, plan: dict) -> None:
    """Go on with an index of the same model and files, refuse one of others."""
    path = out / "plan.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old == plan:
            return
        changed = [key for key in plan if old.get(key) != plan[key]]
        raise UserError(f"{out} is an index of another {', '.join(changed)}; choose another --out or delete it.")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} holds other files; choose another --out.")
    write_json(path, plan)


def _join(out: Path, blocks: range, count: int) -> None:
    with atomic_path(out / "vectors.npy") as temporary:
        joined, filled = None, 0
        for start in blocks:
            with np.load(out / "parts" / f"{start:08d}.npz") as data:
                vectors = data["vectors"]
            if not len(vectors):
                continue
            if joined is None:
                shape = (count, vectors.shape[1])
                joined = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            joined[filled : filled + len(vectors)] = vectors
            filled += len(vectors)
        assert joined is not None and filled == count
        joined.flush()

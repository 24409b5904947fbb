"""One vector for each recording, from any model of the registry or any HEAR embedding."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from common.data.audio import list_audio, read_audio
from common.data.files import atomic_path, atomic_write
from common.errors import UserError, import_part, unknown
from common.inference.as_model import names_a_folder, run_module
from common.inference.hear import get_scene_embeddings
from common.inference.hear import load_model as load_hear_model
from common.inference.hear_names import LIKE_PUBLISHED, parse_name
from common.inference.prepare import prepare_for_inference
from common.inference.tagging import load_model, read_noted
from common.output import Progress
from common.registry import list_models
from common.registry.models import is_model_name

ENDINGS = (".npz", ".parquet")


class Embed(Protocol):
    """From an audio file to its embedding (size,), float32; `progress` shows how far a long file has been read."""

    def __call__(self, path: Path, progress: Progress | None = None) -> np.ndarray:
        """The embedding of one file."""


def load_embedder(name: str, weights: Path | None = None) -> Embed:
    """A function from an audio file to its embedding (size,), float32.

    `name` is a model of the registry or the folder of a run (its pooled last layer; any length in constant memory), or
    a HEAR name such as mn10_all_b_mel_avgs or passt_base.
    """
    if not is_model_name(name) and not (weights is None and names_a_folder(name)):
        try:
            parse_name(name)
        except UserError as error:
            raise unknown("model or HEAR embedding", name, [*list_models(), *LIKE_PUBLISHED]) from error
        hear_model = load_hear_model(weights or "", name)

        def embed_at_once(path: Path, progress: Progress | None = None) -> np.ndarray:
            waveform = torch.from_numpy(read_audio(path, hear_model.sample_rate))
            return get_scene_embeddings(waveform[None], hear_model)[0].float().cpu().numpy()

        return embed_at_once
    if weights is None and names_a_folder(name):
        own = getattr(run_module(Path(name)), "load_embedder", None)
        if own is not None:
            return own(Path(name))
    model = prepare_for_inference(load_model(name, weights))

    def embed_in_windows(path: Path, progress: Progress | None = None) -> np.ndarray:
        progress = progress or Progress("Embedding", None, quiet=True)
        with torch.inference_mode():
            return model.clip_scores(read_noted(model, path, progress)).embedding[0].float().cpu().numpy()

    return embed_in_windows


def embed_files(paths: Iterable[Path], embed: Embed) -> np.ndarray:
    """Embeddings (files, size), float32, in the order of the paths."""
    paths = list(paths)
    embeddings = []
    with Progress("Embedding", len(paths), "files") as progress:
        for path in paths:
            embeddings.append(embed(path, progress))
            if not np.isfinite(embeddings[-1]).all():
                raise UserError(f"The embedding of {path} holds NaN or infinity; use another model or other weights.")
            progress.advance()
    return np.stack(embeddings)


def embed_folder(folder: Path, name: str, out: Path, weights: Path | None = None) -> tuple[int, int]:
    """Embed all audio below a folder into one file, whole or not at all.

    `.npz` holds `filename` (relative to the folder, as on the disk) and `embedding` (files, size); `.parquet` holds the
    same as columns.

    Returns:
        Files and size of an embedding.

    Raises:
        UserError: no audio in the folder, an unreadable file, or another ending than .npz and .parquet.
    """
    if out.suffix not in ENDINGS:
        raise UserError(f"{out} ends neither in .npz nor in .parquet; choose one of these forms.")
    if out.suffix == ".parquet":
        _arrow()
    paths = list_audio(folder)
    embeddings = embed_files(paths, load_embedder(name, weights))
    write_embeddings(out, [str(path.relative_to(folder)) for path in paths], embeddings)
    return embeddings.shape[0], embeddings.shape[1]


def write_embeddings(out: Path, names: list[str], embeddings: np.ndarray) -> None:
    """Write names and embeddings (files, size) as .npz or .parquet."""
    if out.suffix == ".npz":
        with atomic_write(out, "wb") as file:
            np.savez(file, filename=np.array(names, dtype=np.str_), embedding=embeddings)
        return
    arrow = _arrow()
    import pyarrow.parquet

    table = arrow.table({"filename": names, "embedding": list(embeddings)})
    with atomic_path(out) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def _arrow() -> Any:
    return import_part("pyarrow", "Parquet files need pyarrow; install it (pip install pyarrow) or write an .npz.")

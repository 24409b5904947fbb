"""Inputs of the network: vectors of a data set's own, or computed once by any encoder and kept by file name."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.audio import read_audio
from common.data.files import compute_sha256, read_tsv
from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.errors import UserError
from common.output import Progress
from task1_asc.broad_sounds.data import SoundSet
from task1_asc.broad_sounds.settings import AudioVectors, Inputs, TextVectors
from task1_asc.broad_sounds.taxonomy import CODES

Array = NDArray[np.float32]
OWN = {"audio": "clap_audio_embeddings", "text": "clap_text_embeddings"}
CLAP_SECONDS = 10
AT_ONCE = 64


@dataclass(frozen=True)
class Vectors:
    """Inputs of all clips of a set, (clips, size) each; None for what the network does not get."""

    audio: Array | None
    text: Array | None
    prior: Array | None

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of each input that there is."""
        return {name: values.shape[1] for name, values in vars(self).items() if values is not None}


def read_inputs(sounds: SoundSet, inputs: Inputs) -> Vectors:
    """The inputs of a data set; what an encoder computes is kept in the cache.

    Raises:
        UserError: naming the file, if a vector is missing, of another size than the others, or holds NaN; if a clip
            has no wav file; if the table of probabilities lacks a clip.
    """
    stamps = tuple(
        folder.stat().st_mtime_ns for folder in (sounds.root / "features").glob("*") if folder.is_dir()
    )  # files that come later are noticed
    return _read_inputs(_Key(sounds), inputs, stamps)


class _Key:
    """A data set as a key of a memory: its folder and the names of its clips."""

    def __init__(self, sounds: SoundSet):
        self.sounds, self.identity = sounds, (str(sounds.root), tuple(sounds.ids))

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.identity == other.identity


@lru_cache(maxsize=4)
def _read_inputs(key: _Key, inputs: Inputs, stamps: tuple[int, ...]) -> Vectors:
    sounds, audio, text = key.sounds, inputs.audio, inputs.text
    live = audio.finetuned_seconds is not None
    return Vectors(
        audio_vectors(sounds, audio, inputs.cache) if audio.used and not live else None,
        text_vectors(sounds, text, inputs.cache) if text.used else None,
        read_prior(inputs.prior, sounds.ids) if inputs.prior else None,
    )


def audio_vectors(sounds: SoundSet, settings: AudioVectors, cache: Path) -> Array:
    """One vector of the sound of each clip, of any length."""
    if settings.model is None and settings.clap is None:
        return read_published(sounds, settings.folder or OWN["audio"], "audio")
    refuse_missing(sounds)
    paths = sounds.paths()
    facts = {
        "audio": settings.model or _folder_facts(settings.clap),
        "weights": None if settings.weights is None else compute_sha256(settings.weights),
        "bytes": [path.stat().st_size for path in paths],
    }
    if settings.model is not None:
        return _computed(sounds, cache, facts, lambda: _embed_files(paths, str(settings.model), settings.weights))
    return _computed(sounds, cache, facts, lambda: _clap_audio(paths, settings.clap))


def text_vectors(sounds: SoundSet, settings: TextVectors, cache: Path) -> Array:
    """One vector of the text of each clip; an empty text has one, too."""
    if settings.encoder is None and settings.clap is None:
        return read_published(sounds, settings.folder or OWN["text"], "text")
    texts = sounds.texts(settings.fields)
    facts = {
        "text": settings.encoder or _folder_facts(settings.clap),
        "options": [settings.pooling, settings.max_tokens],
        "texts": texts,
    }
    if settings.clap is not None:
        return _computed(sounds, cache, facts, lambda: _clap_text(texts, settings.clap))

    def encode() -> Iterable[Any]:
        from common.models.text import TextEncoder

        encoder = TextEncoder(str(settings.encoder), 0.0, settings.pooling, settings.max_tokens, "none")
        return (encoder.encode(part) for part in _parts(texts))

    return _computed(sounds, cache, facts, encode)


def refuse_missing(sounds: SoundSet) -> None:
    """Refuse a set with clips that have no wav file."""
    if absent := [path for path in sounds.paths() if not path.is_file()]:
        raise UserError(
            f"{sounds.root / 'audio'} lacks {len(absent):,} of {len(sounds.ids):,} clips, the first is "
            f"{absent[0].name}; download or unpack the audio again."
        )


def read_published(sounds: SoundSet, folder: str, side: str) -> Array:
    """Vectors of features/<folder>/<sound_id>.npy."""
    place = sounds.root / "features" / folder
    paths = [place / f"{name}.npy" for name in sounds.ids]
    listed = {path.name for path in place.glob("*.npy")}
    if absent := [path for path in paths if path.name not in listed]:
        needed = "every clip needs a class" if sounds.kind == "bsd2k" else "the folds would change without them"
        raise UserError(
            f"{place} lacks {len(absent):,} of {len(paths):,} vectors, the first is {absent[0].name}; {needed}. Unpack "
            f"the features again, or train on computed vectors: set inputs.{side} to an encoder."
        )
    return np.stack(list(_checked(paths)))


def _checked(paths: Sequence[Path]) -> Iterable[Array]:
    """Vectors of equal size without NaN."""
    size = None
    for path in paths:
        vector = read_vector(path)
        if size is not None and len(vector) != size:
            raise UserError(
                f"{path} holds {len(vector)} numbers, {paths[0].name} {size}; take the vectors of one encoder."
            )
        size = len(vector)
        yield vector


def read_vector(path: Path) -> Array:
    """The vector in a .npy file, (size,).

    Raises:
        UserError: if it is damaged, of another form, or holds NaN.
    """
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); unpack it again.") from error
    vector = np.squeeze(vector)
    if vector.ndim != 1 or vector.dtype.kind != "f" or not vector.size:
        raise UserError(f"{path} holds {vector.dtype} of shape {vector.shape}, not one vector; unpack it again.")
    if not np.isfinite(vector).all():
        raise UserError(f"{path} holds NaN or infinity; unpack or compute it again.")
    return vector.astype(np.float32)


def read_prior(paths: Sequence[Path], ids: Sequence[str]) -> Array:
    """(clips, 23) class probabilities out of tables with the columns sound_id and the 23 codes.

    Raises:
        UserError: if a table has an unknown column or a value outside 0..1, or a clip is in none of them.
    """
    rows: dict[str, Array] = {}
    for path in paths:
        table = read_tsv(path, ["sound_id", *CODES], key="sound_id", separator=",")
        try:
            values = table[list(CODES)].astype(np.float32).to_numpy()
        except ValueError as error:
            raise UserError(f"{path} has a cell that is no number ({error}); correct it.") from error
        if not ((values >= 0) & (values <= 1)).all():
            wrong = table["sound_id"].iloc[int(np.argwhere(~((values >= 0) & (values <= 1)))[0][0])]
            raise UserError(f"{path}: {wrong} has a probability outside 0..1; correct it.")
        rows |= dict(zip(table["sound_id"].str.removesuffix(".wav"), values))
    if absent := [name for name in ids if name not in rows]:
        raise UserError(
            f"The tables of inputs.prior lack {len(absent):,} of {len(ids):,} clips, the first is {absent[0]}; "
            "complete them, or set inputs.prior to an empty list."
        )
    return np.stack([rows[name] for name in ids])


def _computed(sounds: SoundSet, cache: Path, facts: dict[str, Any], make: Callable[[], Iterable[Any]]) -> Array:
    """Vectors from the cache; where it has none, `make` yields them part by part."""
    digest = hashlib.sha256(json.dumps([facts, sounds.ids], sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"{sounds.kind}_{next(iter(facts))}_{digest}.h5"
    if not path.is_file():
        say_what = f"Computing {next(iter(facts))} vectors of {sounds.kind}"
        with (
            OutputWriter(path, sounds.ids, kind="embeddings", dtype="float32") as writer,
            Progress(say_what, len(sounds.ids), "clips") as progress,
        ):
            for names, vectors in zip(_parts(sounds.ids), make(), strict=True):
                writer.write(names, vectors)
                progress.advance(len(names))
    stored = KeyedOutputs(path, "embeddings")
    return stored.read(stored.rows(sounds.ids))


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]


def _embed_files(paths: Sequence[Path], model: str, weights: Path | None) -> Iterable[Array]:
    from common.inference.embedding import load_embedder

    embed, quiet = load_embedder(model, weights), Progress("Embedding", None, quiet=True)
    return (np.stack([embed(path, quiet) for path in part]) for part in _parts(paths))


def _folder_facts(folder: Path | None) -> list[Any]:
    """Name and sizes of the files of a model's folder."""
    assert folder is not None
    return [folder.name, *sorted((path.name, path.stat().st_size) for path in folder.glob("*") if path.is_file())]


def _load_clap(folder: Path | None) -> tuple[Any, Any, Any]:
    """Model, tokenizer and front end of a folder.

    Raises:
        UserError: if it holds no CLAP model, or transformers is missing.
    """
    assert folder is not None
    try:
        import transformers

        transformers.logging.set_verbosity_error()
        model = transformers.ClapModel.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        front_end = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise UserError("CLAP needs the optional package transformers: pip install transformers") from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder} holds no CLAP model of the transformers library ({reason}).") from error
    return model.eval(), tokenizer, front_end


def _clap_audio(paths: Sequence[Path], folder: Path | None) -> Iterable[Array]:
    """The mean over pieces of ten seconds; CLAP would choose one of them by chance."""
    import torch

    model, _, front_end = _load_clap(folder)
    rate = front_end.sampling_rate

    @torch.inference_mode()
    def embed(path: Path) -> Array:
        waveform = read_audio(path, rate)
        pieces = [
            waveform[start : start + CLAP_SECONDS * rate] for start in range(0, len(waveform), CLAP_SECONDS * rate)
        ]
        inputs = front_end(pieces, sampling_rate=rate, return_tensors="pt")
        return _pooled(model.get_audio_features(**inputs)).mean(dim=0).numpy()

    return (np.stack([embed(path) for path in part]) for part in _parts(paths))


def _clap_text(texts: Sequence[str], folder: Path | None) -> Iterable[Array]:
    import torch

    model, tokenizer, _ = _load_clap(folder)

    @torch.inference_mode()
    def embed(part: Sequence[str]) -> Array:
        tokens = tokenizer(list(part), padding=True, truncation=True, max_length=77, return_tensors="pt")
        chosen = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return _pooled(model.get_text_features(**chosen)).numpy()

    return (embed(part) for part in _parts(texts))


def _pooled(output: Any) -> Any:
    """The vectors; later versions of transformers wrap them."""
    return output if hasattr(output, "mean") else output.pooler_output

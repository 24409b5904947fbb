"""Queries of an index and the files, or the times in files, that fit them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from common.runs.helper import answer_lines
from retrieval.model import DualEncoder, embed_captions
from retrieval.search import tag_query
from retrieval.search.index import Index
from retrieval.search.ranking import PIECE, top_k
from retrieval.search.searcher import Searcher

SPARE = 8
"""Windows looked at for each hit, since neighbours become one; more where they do not suffice."""
PAGE_HITS = 10
OTHERS = {
    "text": "Search it by words.",
    "voice": "Search it with --voice.",
    "example": "Search it with --example.",
}


@dataclass(frozen=True)
class Answer:
    """The hits of one query, best first.

    hits: query, rank, file, similarity; in an index of windows also onset and offset in seconds.
    notes: what a reader should know: the tags that stand for words, or that nothing fits.
    """

    query: str
    hits: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def search(
    index: Index,
    text: str | Sequence[str] | None = None,
    voice: Path | Sequence[Path] | None = None,
    example: Path | Sequence[Path] | None = None,
    top: int = 5,
) -> list[dict[str, Any]]:
    """The hits of one or several queries as rows; see `answer`."""
    texts = [text] if isinstance(text, str) else text or ()
    voices, examples = ([each] if isinstance(each, str | Path) else each or () for each in (voice, example))
    return [hit for found in answer(index, texts, voices, examples, top) for hit in found.hits]


def answer_queries(index: Index) -> None:
    """Answer the queries of `common serve` over an index until stdin ends, see `common.runs.helper`."""
    if not index.content.get("labels"):
        index.searcher()  # loads the model once
    files = sum(name is not None for name in index.files)
    facts = {"folder": str(index.sounds), "understands": index.understands, "files": files}
    answer_lines(facts, partial(answer_one, index))


def answer_one(index: Index, text: str = "", voice: str = "", example: str = "") -> dict[str, Any]:
    """Notes and hits of one query, for JSON."""
    queries = [text] if text else [], [Path(voice)] if voice else [], [Path(example)] if example else []
    found = answer(index, *queries, top=PAGE_HITS)[0]
    return {"notes": found.notes, "hits": found.hits}


def answer(
    index: Index, texts: Sequence[str] = (), voices: Sequence[Path] = (), examples: Sequence[Path] = (), top: int = 5
) -> list[Answer]:
    """The `top` best files of each query, exactly; an indexed file is not its own hit.

    In an index of windows a hit is a range of time: the best window with the neighbours that are at least half-way
    between the similarity from which something fits (where it is unknown: the file's median) and the best.

    Raises:
        UserError: if no query is given, `top` is below 1, or the index does not understand a query.
    """
    if top < 1:
        raise UserError(f"--top is {top}; ask for at least 1.")
    if not (texts or voices or examples):
        raise UserError('Give one query, words, --voice FILE or --example FILE: search "a dog barks" --index INDEX')
    for kind, given in (("text", texts), ("voice", voices), ("example", examples)):
        if given and kind not in index.understands:
            raise UserError(_refusal(index, kind))
    if any(not text.strip() for text in texts):
        raise UserError("A query is empty; give words.")
    by_tags = bool(index.content.get("labels"))
    found = [_by_tags(index, text, top) for text in texts] if by_tags else []
    if voices or examples or (texts and not by_tags):
        found += _by_vectors(index, index.searcher(), () if by_tags else texts, voices, examples, top)
    return found


def shown(hit: Mapping[str, Any], with_query: bool = False) -> dict[str, Any]:
    """A hit as a row for people, times as hours, minutes and seconds."""
    row = {name: hit[name] for name in ("query", "rank", "file") if with_query or name != "query"}
    if "onset" in hit:
        row["time"] = f"{_clock(hit['onset'])} - {_clock(hit['offset'])}"
    return row | {"similarity": hit["similarity"]}


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths % 600 / 10:04.1f}"


def _by_tags(index: Index, text: str, top: int) -> Answer:
    labels = index.content["labels"]
    query = tag_query.find_tags(text, labels)
    assert index.tags is not None
    scores = query.score(index.tags)
    order = scores.argsort(descending=True, stable=True)
    best = ((scores[rows], rows) for rows in order.split(PIECE))
    hits = _hits(index, text, best, lambda rows: scores[rows].numpy(), top, None, tag_query.FITS)
    notes = [f"{text!r} is searched by tags, for want of a text model: {query.names(labels)}."]
    if query.unknown:
        notes.append(f"No tag has {', '.join(query.unknown)}; left out of the query.")
    return Answer(text, hits, notes + _nothing_fits(text, hits, tag_query.FITS, "from there on a tag counts as heard"))


def _by_vectors(
    index: Index, searcher: Searcher, texts: Sequence[str], voices: Sequence[Path], examples: Sequence[Path], top: int
) -> list[Answer]:
    parts = [embed_captions(searcher.model, texts)] if texts and isinstance(searcher.model, DualEncoder) else []
    parts += [searcher.embed_files(voices, voice=True)] if voices else []
    parts += [searcher.embed_files(examples)] if examples else []
    queries = torch.cat(parts)
    if not queries.isfinite().all():
        raise UserError("The embedding of a query holds NaN or infinity; index again with another model or weights.")
    kinds = ["text"] * len(texts) + ["voice"] * len(voices) + ["example"] * len(examples)
    own = [*[None] * (len(texts) + len(voices)), *(_number(index, path) for path in examples)]
    fits, answers = index.content.get("fits", {}), []
    of_queries = [index.rows_of(file) for file in own if file is not None]
    spare = len(index.left_out()) + max((rows.stop - rows.start for rows in of_queries), default=0)
    first = top_k(queries, index.vectors, (top * SPARE if index.windowed else top) + spare)
    for row, name in enumerate([*texts, *map(str, voices), *map(str, examples)]):
        query, limit = queries[row], fits.get(kinds[row])
        best = _ever_more(index, query, (first[0][row], first[1][row]))
        hits = _hits(index, name, best, partial(_curve, index, query), top, own[row], limit)
        why = "95 % of the captions of the run's test are closer to their own clip"
        if kinds[row] == "example":
            why = "95 % of the indexed files have a closer neighbour"
        answers.append(Answer(name, hits, _nothing_fits(name, hits, limit, why)))
    return answers


def _ever_more(index: Index, query: Tensor, best: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Similarities and rows, best first; then as many more as there are, four times as many at each step."""
    yield best
    count = len(best[1])
    while count < len(index.vectors):
        similarity, rows = top_k(query[None], index.vectors, 4 * count)
        yield similarity[0, count:], rows[0, count:]
        count = rows.shape[1]


def _curve(index: Index, query: Tensor, rows: slice) -> NDArray[np.float32]:
    """Similarity of a query to consecutive rows."""
    return (torch.from_numpy(index.vectors[rows]).float() @ query.float()).numpy()


def _hits(
    index: Index,
    query: str,
    best: Iterator[tuple[Tensor, Tensor]],
    curve: Callable[[slice], NDArray[np.float32]],
    top: int,
    own: int | None,
    fits: float | None,
) -> list[dict[str, Any]]:
    """The first `top` hits of rows that come best first; windows of a hit are no further hits."""
    hits: list[dict[str, Any]] = []
    taken: set[int] = set()
    for similarities, rows in best:
        for similarity, row in zip(similarities.tolist(), rows.tolist(), strict=True):
            file = int(index.rows["file"][row])
            if file == own or row in taken or index.files[file] is None:
                continue
            hit = {"query": query, "rank": len(hits) + 1, "file": index.files[file]}
            if index.windowed:
                around = _range(index, row, curve, taken, fits)
                onset, offset = float(index.rows["onset"][around.start]), float(index.rows["offset"][around.stop - 1])
                hit |= {"onset": round(onset, 2), "offset": round(offset, 2)}
                whole = index.rows_of(file)
                overlaps = (index.rows["onset"][whole] < offset) & (index.rows["offset"][whole] > onset)
                taken.update((np.flatnonzero(overlaps) + whole.start).tolist())
            hits.append(hit | {"similarity": round(similarity, 4)})
            if len(hits) == top:
                return hits
    return hits


def _range(
    index: Index, row: int, curve: Callable[[slice], NDArray[np.float32]], taken: set[int], fits: float | None
) -> slice:
    """The best window and the neighbours that fit, up to windows of earlier hits."""
    whole = index.rows_of(int(index.rows["file"][row]))
    values, place = curve(whole), row - whole.start
    best = values[place]
    base = fits if fits is not None and fits <= best else np.median(values)
    stops = (values < (best + base) / 2) | np.isin(np.arange(whole.start, whole.stop), list(taken))
    stops[place] = False
    edges = np.flatnonzero(np.concatenate([[True], stops, [True]]))
    first, end = next((low, high) for low, high in pairwise(edges) if low <= place < high)
    return slice(whole.start + first, whole.start + end - 1)


def _nothing_fits(query: str, hits: Sequence[dict[str, Any]], limit: float | None, why: str) -> list[str]:
    if not hits:
        return [f"The index holds no other file than {query}."]
    if limit is None or hits[0]["similarity"] >= limit:
        return []
    return [f"Nothing fits {query!r}: the best similarity is {hits[0]['similarity']:.3f}, below {limit:.3f} ({why})."]


def _number(index: Index, path: Path) -> int | None:
    """Number of an indexed file; None for another."""
    path, folder = path.resolve(), index.sounds.resolve()
    if not path.is_relative_to(folder):
        return None
    name = str(path.relative_to(folder))
    return index.files.index(name) if name in index.files else None


def _refusal(index: Index, kind: str) -> str:
    made_by = "vocal imitation" if "voice" in index.understands else "text" if "run" in index.content else "audio"
    instead = " ".join(OTHERS[other] for other in index.understands)
    return f"This index was made by a model of {made_by}, which takes no {kind}. {instead}"

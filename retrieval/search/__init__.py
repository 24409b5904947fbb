"""Search a folder of audio: by words, by example, by voice. Exact, by matrix products in pieces."""

from retrieval.search.answer import Answer, answer, answer_queries, search, shown
from retrieval.search.index import Index, Windows, build_index
from retrieval.search.ranking import top_k
from retrieval.search.searcher import Searcher, load_audio_searcher, load_searcher, open_run

__all__ = [
    "Answer", "Index", "Searcher", "Windows", "answer", "answer_queries", "build_index", "load_audio_searcher",
    "load_searcher", "open_run", "search", "shown", "top_k",
]  # fmt: skip

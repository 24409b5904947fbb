"""Calls of command lines within this process."""


def verb(*words: object) -> int:
    """Exit code of `python -m common WORDS`."""
    from common.__main__ import VERBS
    from common.cli import run

    return run("python -m common", VERBS, [str(word) for word in words])

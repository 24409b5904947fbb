"""The rules of submissions; importing this package registers them all."""

from submissions.checks import (
    broad_sounds,
    generic,
    inference_package,
    meta,
    moments,
    retrieval,
    scenes,
    sound_events,
    tables,
)
from submissions.checks.registry import CHECKS, Finding, Result, check, run_checks, shorten

RULES = (broad_sounds, generic, inference_package, meta, moments, retrieval, scenes, sound_events, tables)
"""Modules that register the checks."""

__all__ = ["CHECKS", "RULES", "Finding", "Result", "check", "run_checks", "shorten"]

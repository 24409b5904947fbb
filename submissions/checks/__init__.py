"""The rules of submissions; importing this package registers them all."""

from submissions.checks import generic, inference_package, meta, retrieval, scenes, sound_events, tables
from submissions.checks.registry import CHECKS, Finding, Result, check, run_checks, shorten

RULES = (generic, inference_package, meta, retrieval, scenes, sound_events, tables)
"""Modules that register the checks."""

__all__ = ["CHECKS", "RULES", "Finding", "Result", "check", "run_checks", "shorten"]

"""Command lines: verbs as typed functions, with or without a YAML configuration."""

from common.cli.arguments import Positional, Precision, Repeated, config_verb
from common.cli.verbs import Verb, make_executor, run, sweep_verb, train_verb
from common.output import print_json, print_table, say

__all__ = [
    "Positional",
    "Precision",
    "Repeated",
    "Verb",
    "config_verb",
    "make_executor",
    "print_json",
    "print_table",
    "run",
    "say",
    "sweep_verb",
    "train_verb",
]

"""Sound event detection metrics, each with 95 % intervals by recording."""

from task4_sed.metrics.evaluation_set import EvaluationSet, evaluation_set
from task4_sed.metrics.f1 import collar_f1, intersection_f1
from task4_sed.metrics.polyphonic import PSDS1, PSDS1_MACRO, PSDS2, PsdsParameters, polyphonic_scores, psds
from task4_sed.metrics.segments import mean_partial_auc, rank_interval, rank_score, segment_f1

__all__ = [
    "PSDS1",
    "PSDS1_MACRO",
    "PSDS2",
    "EvaluationSet",
    "PsdsParameters",
    "collar_f1",
    "evaluation_set",
    "intersection_f1",
    "mean_partial_auc",
    "polyphonic_scores",
    "psds",
    "rank_interval",
    "rank_score",
    "segment_f1",
]

"""What chooses the best epoch: PSDS1 of the strong validation sets plus mpAUC of MAESTRO."""

from collections.abc import Sequence

import numpy as np

from task4_sed.metrics.evaluation_set import EvaluationSet
from task4_sed.metrics.polyphonic import PSDS1, polyphonic_scores
from task4_sed.metrics.segments import mean_partial_auc
from task4_sed.scoring import Reference, Scored, held_out_figures
from task4_sed.settings import SystemSettings


def objective(
    scored: dict[str, list[Scored]], references: Sequence[Reference], settings: SystemSettings
) -> dict[str, float]:
    """PSDS1 of each strong set, mpAUC of MAESTRO, their sum, and the weak F1, which does not count.

    Arguments as for `task4_sed.scoring.objective`. An undefined figure counts 0.
    """
    found = held_out_figures(scored, references, settings, _psds1, _mpauc)
    counted = sum(value for name, value in found.items() if name != "weak")
    names = {name: "mpauc" if name.startswith("maestro") else f"{name}_psds1" for name in found} | {"weak": "weak_f1"}
    return {**{names[name]: value for name, value in found.items()}, "objective": counted}


def _psds1(evaluation: EvaluationSet) -> float:
    return float(polyphonic_scores(evaluation, [PSDS1], draws=0)[0].value)


def _mpauc(evaluation: EvaluationSet) -> float:
    return float(np.nan_to_num(mean_partial_auc(evaluation, draws=0).value))

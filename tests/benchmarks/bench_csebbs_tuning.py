"""Tuning of event boxes over a grid: this kit against one process that scores each setting from the start.

The slow side goes through the grid in the order of the published tool: boxes of every clip, score tables of them, PSDS1
with sed_scores_eval, for each setting. It uses this kit's compiled box finder, so what is compared is the order of the
work and the scoring. Run from the root:

    python -m tests.benchmarks.bench_csebbs_tuning [--clips 100] [--pairs 5]
"""

import argparse
import statistics
import sys
import time
import warnings

import numpy as np

from task4_sed.metrics import PSDS1, EvaluationSet, evaluation_set
from task4_sed.metrics.operating_points import by_sed_scores_eval
from task4_sed.postprocessing.event_boxes import box_scores, event_boxes
from task4_sed.postprocessing.finisher import GRID, tune_boxes
from tests.support.made_up_scores import made_up_scores


def one_by_one(evaluation: EvaluationSet) -> dict[str, float]:
    """Best single-class PSDS1 over the grid."""
    best = dict.fromkeys(evaluation.classes, -1.0)
    reference, durations = evaluation.reference(), evaluation.durations_by_clip()
    for setting in GRID:
        tables = box_scores(evaluation.scores, event_boxes(evaluation.scores, setting))
        _, per_class = by_sed_scores_eval(evaluation_set(tables, reference, durations), PSDS1)
        best = {name: max(best[name], per_class[name]) for name in best}
    return best


def main() -> None:
    """Print the time of each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    tune_boxes(evaluation_set(*made_up_scores(8, 10)), folds=5)
    ratios = []
    for pair in range(arguments.pairs):
        evaluation = evaluation_set(*made_up_scores(arguments.clips, 10, seed=pair))
        start = time.perf_counter()
        tuned = tune_boxes(evaluation, grid=GRID, folds=5, jobs=2)
        middle = time.perf_counter()
        best = one_by_one(evaluation)
        end = time.perf_counter()
        assert np.allclose([tuned.per_class[name] for name in best], list(best.values()), atol=1e-9)
        ratios.append((end - middle) / (middle - start))
        print(
            f"kit, with 5 folds {middle - start:.2f} s, one by one, without folds {end - middle:.2f} s, "
            f"ratio {ratios[-1]:.1f}",
            flush=True,
        )
    print(
        f"{len(GRID)} settings, {arguments.clips} clips: median ratio {statistics.median(ratios):.1f} of {len(ratios)}"
    )


if __name__ == "__main__":
    sys.exit(main())

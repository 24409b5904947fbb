"""PSDS1, PSDS2, collar F1 and mpAUC of made-up clips: this kit against the baseline's own way.

The baseline's way: detections at 50 thresholds as tables, psds_eval for both scenarios, then sed_scores_eval in one
process for both PSDS, collar F1 and mpAUC. Both sides read the same folder of score tables. Run from the root:

    python -m tests.benchmarks.bench_sed_metrics [--clips 1168] [--pairs 5] [--draws 0]
"""

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from task4_sed.metrics import PSDS1, PSDS2, collar_f1, evaluation_set, mean_partial_auc, polyphonic_scores
from task4_sed.metrics.operating_points import THRESHOLDS
from task4_sed.scores.tables import from_frames, write_score_tables
from tests.support.made_up_scores import made_up_scores

COLLARS = {"onset_collar": 0.2, "offset_collar": 0.2, "offset_collar_rate": 0.2}


def ours(folder: Path, events: dict, durations: dict, draws: int) -> list[float]:
    """Four figures by this kit, on both processors."""
    evaluation = evaluation_set(folder, events, durations)
    first, second = polyphonic_scores(evaluation, [PSDS1, PSDS2], draws=draws, jobs=2)
    collar = collar_f1(evaluation, draws=draws, jobs=2)
    return [first.value, second.value, collar.value, mean_partial_auc(evaluation, draws=draws).value]


def baseline(folder: Path, events: dict, durations: dict) -> tuple[list[float], tuple[float, float]]:
    """The same four by the packages, in one process, PSDS with psds_eval before them; seconds of the two parts."""
    import sed_scores_eval
    from sed_scores_eval import collar_based, intersection_based, segment_based
    from sed_scores_eval.base_modules.detection import scores_to_event_list

    start = time.perf_counter()
    psds_eval_scores(folder, events, durations, scores_to_event_list)
    middle = time.perf_counter()
    scores = sed_scores_eval.io.read_sed_scores(folder)
    first = intersection_based.psds(scores, events, durations, dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1)
    second = intersection_based.psds(
        scores, events, durations, dtc_threshold=0.1, gtc_threshold=0.1, cttc_threshold=0.3, alpha_ct=0.5, alpha_st=1
    )
    collar = collar_based.fscore(scores, events, 0.5, **COLLARS)
    area = segment_based.auroc(scores, events, durations, segment_length=1.0, max_fpr=0.1)
    seconds = middle - start, time.perf_counter() - middle
    return [first[0], second[0], collar[0]["macro_average"], area[0]["mean"]], seconds


def psds_eval_scores(folder: Path, events: dict, durations: dict, decode: Callable) -> list[float]:
    """Both scenarios with 50 thresholds."""
    import sed_scores_eval
    from psds_eval import PSDSEval

    scores = sed_scores_eval.io.read_sed_scores(folder)
    columns = ["filename", "onset", "offset", "event_label"]
    rows = [(clip, *event) for clip, of_clip in events.items() for event in of_clip]
    reference = pd.DataFrame(rows, columns=columns)
    metadata = pd.DataFrame(durations.items(), columns=["filename", "duration"])
    tables = []
    for threshold in THRESHOLDS:
        found = decode(scores, float(threshold))
        rows = [(clip, *event) for clip, of_clip in found.items() for event in of_clip]
        tables.append(pd.DataFrame(rows, columns=columns))
    values = []
    for parameters in (PSDS1, PSDS2):
        evaluator = PSDSEval(
            dtc_threshold=parameters.dtc, gtc_threshold=parameters.gtc, cttc_threshold=parameters.cttc or 0.3,
            ground_truth=reference, metadata=metadata,
        )  # fmt: skip
        for table in tables:
            evaluator.add_operating_point(table)
        values.append(evaluator.psds(parameters.alpha_ct, parameters.alpha_st, parameters.max_efpr).value)
    return values


def main() -> None:
    """Print the time of each pair and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1168)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--draws", type=int, default=0, help="resamplings behind intervals, which the baseline lacks")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    scores, events, durations = made_up_scores(arguments.clips, 10)
    few = {clip: scores[clip] for clip in list(scores)[:40]}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_score_tables(from_frames(few), folder / "few")
        small = {clip: events[clip] for clip in few}, {clip: durations[clip] for clip in few}
        ours(folder / "few", *small, draws=2)  # compiled and imported before the clock starts
        baseline(folder / "few", *small)
        write_score_tables(from_frames(scores), folder / "all")
        del scores
        for _ in range(arguments.pairs):
            start = time.perf_counter()
            fast = ours(folder / "all", events, durations, arguments.draws)
            middle = time.perf_counter()
            slow, parts = baseline(folder / "all", events, durations)
            end = time.perf_counter()
            assert np.allclose(fast, slow, atol=1e-9), (fast, slow)
            ratios.append((end - middle) / (middle - start))
            print(
                f"kit {middle - start:.2f} s, baseline {end - middle:.2f} s (psds_eval {parts[0]:.2f} s, "
                f"sed_scores_eval {parts[1]:.2f} s), ratio {ratios[-1]:.1f}, to sed_scores_eval alone "
                f"{parts[1] / (middle - start):.1f}",
                flush=True,
            )
    median = statistics.median(ratios)
    print(f"{arguments.clips} clips, {arguments.draws} draws: median ratio {median:.1f} of {len(ratios)} pairs")


if __name__ == "__main__":
    sys.exit(main())

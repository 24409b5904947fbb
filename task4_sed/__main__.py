"""Command line of Task 4: sound event detection."""

import sys
from pathlib import Path

from common.cli import Positional, Repeated, run


def psds(
    scores: Positional[Path],
    *,
    ground_truth: Path,
    durations: Path,
    classes: Repeated[str] = (),
    alpha_st: float = 1.0,
    draws: int = 1000,
    jobs: int = 0,
    plots: bool = False,
    out: Path | None = None,
    cross_check: bool = False,
    json: bool = False,
) -> None:
    """Score any system's score tables: PSDS1, PSDS2, collar F1 and intersection F1, with intervals.

    Args:
        scores: folder of score tables (one .tsv per clip), score store (.h5), folder of operating points (one table of
            detections per threshold, the threshold in its name), or one table of detections.
        ground_truth: table with filename, onset, offset, event_label.
        durations: table with filename, duration.
        classes: score only this class; may be given several times.
        alpha_st: weight of the deviation over classes; 0 gives the mean of the single-class scores (AudioSet strong).
        draws: resamplings of the recordings behind the 95 % intervals; 0 for none.
        jobs: processors to use; 0 for all.
        plots: draw the PSD-ROC curves.
        out: folder for the plots, in place of runs/task4_sed/psds/NAME.
        cross_check: score with sed_scores_eval and psds_eval too, and say why they differ.
        json: print the figures as JSON.
    """
    from task4_sed.psds_command import score

    score(
        scores, ground_truth, durations, classes=classes, alpha_st=alpha_st, draws=draws, jobs=jobs, plots=plots,
        out=out, with_cross_check=cross_check, as_json=json,
    )  # fmt: skip


VERBS = {"psds": psds}

if __name__ == "__main__":
    sys.exit(run("python -m task4_sed", VERBS))

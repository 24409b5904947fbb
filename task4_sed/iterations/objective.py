"""What chooses the best epoch: PSDS1 of the strong validation sets plus mpAUC of MAESTRO, of clips held out."""

from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from task4_sed.data.annotations import Annotations
from task4_sed.iterations.settings import TwoIterations
from task4_sed.metrics.evaluation_set import evaluation_set
from task4_sed.metrics.polyphonic import PSDS1, polyphonic_scores
from task4_sed.metrics.segments import mean_partial_auc
from task4_sed.scores.median_filter import median_filter
from task4_sed.scores.tables import ScoreTables
from task4_sed.scoring import Reference, Scored, evaluated_classes, joined, of_clips, weak_f1


def held_out_figures(
    scored: dict[str, list[Scored]], references: Sequence[Reference], settings: TwoIterations
) -> dict[str, float]:
    """PSDS1 of each strong set, mpAUC of MAESTRO, their sum (objective), and the weak F1, which does not count.

    Median-filtered scores. A figure that is not defined, since no class of it has events, counts 0.

    Args:
        scored: batches by name of the set.
        references: of the sets that are held out.
        settings: classes and median filters.
    """
    figures, counted = {}, 0.0
    for reference in references:
        parts = scored[reference.name]
        if reference.name == "weak":
            weak = np.concatenate([part.weak for part in parts]), np.concatenate([part.weak_target for part in parts])
            figures["weak_f1"] = weak_f1(*weak)
            continue
        tables = median_filter(joined(parts, settings), settings.postprocessing.median_frames)
        maestro = reference.name.startswith("maestro")
        annotations = of_clips(reference.annotations, tables.clips, evaluated_classes(settings, maestro))
        value = (_maestro if maestro else _desed)(tables, annotations, reference, settings)
        figures["mpauc" if maestro else f"{reference.name}_psds1"] = value
        counted += value
    return {**figures, "objective": counted}


def _desed(tables: ScoreTables, annotations: Annotations, reference: Reference, settings: TwoIterations) -> float:
    if annotations.events.empty:
        return 0.0
    classes = evaluated_classes(settings, maestro=False)
    evaluation = evaluation_set(tables, annotations, reference.durations, classes=classes)
    return float(polyphonic_scores(evaluation, [PSDS1], draws=0)[0].value)


def _maestro(tables: ScoreTables, annotations: Annotations, reference: Reference, settings: TwoIterations) -> float:
    """Window by window, up to the end of each window's last event, as in the baseline's validation."""
    if annotations.events.empty:
        return 0.0
    ends = annotations.events.groupby("clip")["offset"].max()
    with_events = Annotations(annotations.events, tuple(ends.index), annotations.source)
    classes = evaluated_classes(settings, maestro=True)
    try:
        evaluation = evaluation_set(tables.select(tuple(ends.index)), with_events, ends.to_dict(), classes=classes)
    except UserError:
        return 0.0
    return float(np.nan_to_num(mean_partial_auc(evaluation, draws=0).value))

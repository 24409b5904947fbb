"""What a run of the baseline reads: the sets of the challenge, or own recordings. No torch here."""

from typing import Any

from common.errors import UserError
from common.registry.models import find_architecture
from task4_sed.baseline.settings import GroupSettings, Task4Settings
from task4_sed.settings import FilterSettings

USUAL_MEDIAN = FilterSettings().median_frames


def use_own_data(settings: Task4Settings) -> Task4Settings:
    """The settings with what `data.table` decides; the windows are cut when they are absent.

    One group of own windows replaces the batch. `labels.classes` stay if the table has them all, else they are the
    classes of the table. Filter lengths follow from the lengths of the events of each class, unless other ones than the
    usual 7 frames are given.
    """
    from task4_sed.data.own import FACTS, prepare_own

    data = settings.data
    if data.table is None:
        return settings
    root = data.root
    if data.table.is_file() or not (root / FACTS).is_file():  # a finished run needs the windows only
        audio = data.audio or data.table.parent
        root, facts = prepare_own(data.table, audio, data.store, settings.own_data, data.allow_missing)
        settings = _with_facts(settings, facts)
    return settings.model_copy(update={"data": settings.data.model_copy(update={"root": root})})


def check_inputs(settings: Task4Settings) -> None:
    """Look for the network, tables, clips and weights of a run.

    Raises:
        UserError: for the first that is missing or wrong.
    """
    from task4_sed.data.sets import check_sets

    find_architecture(settings.model.name)
    data, weights = settings.data, settings.embedding.weights
    if settings.embeddings != "none" and not settings.embedding.untrained and weights and not weights.is_file():
        raise UserError(f"embedding.weights: there is no file {weights}.")
    names = [name for group in data.batch for name in group.sets]
    check_sets(settings, names, settings.validation.synthetic)


def _with_facts(settings: Task4Settings, facts: dict[str, Any]) -> Task4Settings:
    windows = facts["windows"]["train"]
    clips = sum(group.clips for group in settings.data.batch)
    groups = [GroupSettings(sets=["own_train"], clips=min(clips, windows))]
    given = settings.labels.classes
    classes = given if set(given) <= set(facts["classes"]) else facts["classes"]
    medians = settings.postprocessing.median_frames
    if medians == USUAL_MEDIAN or (isinstance(medians, dict) and not set(classes) <= set(medians)):
        medians = {name: facts["median"].get(name, 7) for name in classes}
    if settings.validation.any and not facts["windows"]["validation"]:
        raise UserError(f"{settings.data.table} has no validation recording; name one in its column split.")
    return settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"batch": groups}),
            "labels": settings.labels.model_copy(update={"classes": list(classes)}),
            "postprocessing": settings.postprocessing.model_copy(update={"median_frames": medians}),
        }
    )

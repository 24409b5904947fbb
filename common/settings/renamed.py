"""Settings and options that have a new name; the old one is refused with the new one named.

To rename a setting or a flag of a verb, rename it in the code and add a line `"old": "new"` to `RENAMED`. The old name
may be one word ("workers") or dotted ("optim.warmup"); it matches the end of a dotted name in every group and verb, and
the new name takes its place. YAML files, the settings.yaml of runs and the command line use the table.
"""

from collections.abc import Collection

RENAMED: dict[str, str] = {
    "workers": "num_workers",
    "contrastive.trainer": "trainer",
    "contrastive.trainer.epochs": "contrastive.epochs",
    "distilled.trainer": "trainer",
    "distilled.trainer.epochs": "distilled.epochs",
    "training.trainer": "trainer",
    "training.lr": "training.optim.lr",
    "augmentation.filter_augment": "augmentation.filter",
    "augmentation.time_mask.min_share": "augmentation.time_mask.smallest",
    "augmentation.time_mask.max_share": "augmentation.time_mask.largest",
    "augmentation.time_mask.distilled": "augmentation.time_mask.pseudo_labels",
}


def find_new_name(old: str, names: Collection[str]) -> str | None:
    """The new name of the dotted setting or option `old`, if it is one of `names`."""
    words = old.split(".")
    renamed = [".".join([*words[:at], RENAMED.get(".".join(words[at:]), "")]) for at in range(len(words))]
    return next((new for new in renamed if new in names), None)

"""Settings and options that have a new name; the old one is refused with the new one named.

To rename a setting or a flag of a verb, rename it in the code and add a line `"old": "new"` to `RENAMED`. The old name
is one word, for every group and verb that had it ("workers"), or dotted, for one place ("optim.projection_lr"); the
new name of a dotted one is dotted too. A YAML file, a run's settings.yaml and the command line all read the table.
"""

from collections.abc import Collection

RENAMED: dict[str, str] = {
    "workers": "num_workers",
}


def find_new_name(old: str, names: Collection[str]) -> str | None:
    """The new name of the dotted setting or option `old`, if it is one of `names`."""
    group, _, word = old.rpartition(".")
    in_its_group = f"{group}.{RENAMED.get(word)}" if group else RENAMED.get(word)
    return next((new for new in (RENAMED.get(old), in_its_group) if new in names), None)

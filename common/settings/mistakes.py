"""Pydantic's validation errors as plain sentences with the nearest known names."""

import json
from collections import Counter
from collections.abc import Collection
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from common.errors import nearest
from common.settings.schema import iterate_settings, setting_fields
from common.settings.yaml_file import Place, dotted

_MOST_COMPARED = 20
"""Unknown names of a file that are compared with the known ones, which takes some milliseconds each."""
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "a group of settings (lines of the form `name: value`)",
    "model": "a group of settings (lines of the form `name: value`)",
    "none": "null",
}
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "one of {expected}",
    "enum": "one of {expected}",
    "too_short": "a list of {min_length} or more values",
    "too_long": "a list of at most {max_length} values",
    "string_too_short": "a text of {min_length} or more characters",
    "string_too_long": "a text of at most {max_length} characters",
    "string_pattern_mismatch": "a text of the form {pattern}",
}

# To rename a setting or a flag of a verb, rename it in the code and add its old name here: one word or dotted, it
# matches the end of a dotted name in every group and verb, and the new name takes its place.
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


def describe_mistakes(cls: type[BaseModel], data: Any, error: ValidationError) -> list[tuple[Place, str]]:
    """One (place, sentence) for each mistake; the sentence starts with the dotted name."""
    found: dict[Place, list[dict]] = {}
    for place, item in _best_variants(data, error):
        found.setdefault(place, []).append(item)
    misspelled: dict[Place, list[str | None]] = {place[:-1]: [] for place in found}
    sentences: list[tuple[Place, str]] = []
    unknown = [place for place, items in found.items() if items[0]["type"] == "extra_forbidden"]
    for number, place in enumerate(unknown):
        if number >= _MOST_COMPARED:
            sentences.append((place, f"{dotted(place)} is not a setting."))
        else:
            sentence, meant = _unknown_setting(cls, place, data)
            sentences.append((place, sentence))
            misspelled[place[:-1]].append(meant)
    for place, items in found.items():
        kind = items[0]["type"]
        if kind == "missing" and place[-1] in misspelled[place[:-1]]:
            continue  # reported already as the misspelled name
        if kind != "extra_forbidden":
            sentences.append((place, _sentence(place, items, data)))
    return sentences


def find_new_name(old: str, names: Collection[str]) -> str | None:
    """The new name of the dotted setting or option `old`, if it is one of `names`."""
    words = old.split(".")
    renamed = [".".join([*words[:at], RENAMED.get(".".join(words[at:]), "")]) for at in range(len(words))]
    return next((new for new in renamed if new in names), None)


def _best_variants(data: Any, error: ValidationError) -> list[tuple[Place, dict]]:
    """(place, pydantic's item) for each mistake; for a union of groups, of its best fitting member only."""
    items = [(*_place_in(data, item["loc"], item["type"]), dict(item)) for item in error.errors(include_url=False)]
    counts: dict[Place, Counter[str]] = {}
    for place, unions, item in items:
        for union, member in unions.items():
            # The mistake is inside the group, so the value is one; or a group of the right settings does not hold.
            if place != union or item["type"] == "value_error":
                counts.setdefault(union, Counter())[member] += 1
    best = {union: min(members, key=members.__getitem__) for union, members in counts.items()}
    return [
        (_with_tag(place, item), item)
        for place, unions, item in items
        if all(best.get(union, member) == member for union, member in unions.items())
    ]


def _place_in(data: Any, location: tuple, kind: str) -> tuple[Place, dict[Place, str]]:
    """Pydantic's location without the names of union members, and these as {place of union: member}."""
    place: Place = ()
    unions: dict[Place, str] = {}
    for position, key in enumerate(location):
        if isinstance(data, dict) and (key in data or str(key) in data):
            data = data[key] if key in data else data[str(key)]
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif kind != "missing" or position < len(location) - 1:
            unions[place] = str(key)
            continue
        place = (*place, key)
    return place, unions


def _with_tag(place: Place, item: dict) -> Place:
    """The place of the mistake; the discriminator of a union if it is missing or wrong."""
    if item["type"].startswith("union_tag"):
        return (*place, item["ctx"]["discriminator"].strip("'"))
    return place


def _unknown_setting(cls: type[BaseModel], place: Place, data: Any) -> tuple[str, str | None]:
    """The sentence for an unknown name, and the name that was probably meant."""
    here = [name for group in _groups_at(cls, place[:-1], data) for name in group.model_fields]
    everywhere = [name for name, _ in iterate_settings(cls)]
    if new := find_new_name(dotted(place), [*(dotted((*place[:-1], name)) for name in here), *everywhere]):
        return f"{dotted(place)} is now called {new}.", new.rsplit(".", 1)[-1]
    start = f"{dotted(place)} is not a setting."
    if len(place) == 1 and (full := [name for name in dict.fromkeys(everywhere) if name.endswith(f".{place[0]}")]):
        return f"{start} Did you mean {' or '.join(full[:3])}?", None
    if near := nearest(str(place[-1]), here, count=1):
        return f"{start} Did you mean {near[0]}?", near[0]
    full_names = {name.rsplit(".", 1)[-1]: name for name in reversed(everywhere) if name != dotted(place)}
    if near := nearest(str(place[-1]), full_names, count=1, cutoff=0.8):
        return f"{start} Did you mean {full_names[near[0]]}?", None
    return f"{start} {dotted(place[:-1]) or 'The file'} can have: {', '.join(here)}.", None


def _groups_at(cls: type[BaseModel], place: Place, data: Any) -> list[type[BaseModel]]:
    groups = [cls]
    for key in place:
        annotations = [group.model_fields[key].annotation for group in groups if key in group.model_fields]
        if annotations:
            groups = [group for annotation in annotations for group in setting_fields(annotation)]
        data = data[key] if isinstance(data, dict) and key in data else data
    return [group for group in groups if _tag_fits(group, data)] or groups


def _tag_fits(group: type[BaseModel], data: Any) -> bool:
    """Whether the literal fields of a group (`kind: Literal["mixup"]`) agree with the file."""
    for name, field in group.model_fields.items():
        choices = get_args(field.annotation)
        if isinstance(data, dict) and name in data and all(isinstance(choice, str) for choice in choices) and choices:
            return data[name] in choices
    return True


def _sentence(place: Place, items: list[dict], data: Any) -> str:
    item, name = items[0], dotted(place)
    kind = item["type"]
    if kind == "missing":
        return f"{name} is missing."
    if kind in ("value_error", "assertion_error"):
        reason = str(item["ctx"]["error"]) if "ctx" in item else item["msg"]
        return f"{name}: {reason}" if name else reason
    if kind == "union_tag_not_found":
        return f"{name} is missing; it gives the kind of {dotted(place[:-1])}."
    if kind == "union_tag_invalid":
        tags = item["ctx"]["expected_tags"].replace("'", "").split(", ")
        return _wrong(name, item["ctx"]["tag"], [_choices(tags)], tags)
    expected = list(dict.fromkeys(_expected(each) for each in items))
    choices = [c for each in items if each["type"] in ("literal_error", "enum") for c in _literal_choices(each)]
    for key in place:
        data = data[key] if not isinstance(data, dict) or key in data else data.get(str(key))
    return _wrong(name, data, expected, choices)


def _wrong(name: str, value: Any, expected: list[str], choices: list[str]) -> str:
    near = nearest(value, choices, count=1) if isinstance(value, str) else []
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is {_shown(value)}; it must be {' or '.join(expected)}.{hint}"


def _expected(item: dict) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return _choices(_literal_choices(item))
    if kind in _BOUNDS:
        bounds = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        return _BOUNDS[kind].format(**bounds)
    if kind == "int_from_float":
        return _EXPECTED["int"]
    return _EXPECTED.get(kind.split("_")[0], item["msg"].removeprefix("Input should be ").lower())


def _literal_choices(item: dict) -> list[str]:
    return item["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")


def _choices(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a group of settings"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

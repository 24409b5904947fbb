"""Shipped settings with seeded damages: no traceback, each mistake with file and line, in bounded time and text."""

import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.errors import UserError
from common.settings import Settings, load_settings
from retrieval.imitation.settings import ImitationSettings
from retrieval.settings import RetrievalSettings
from task1_asc.settings import Task1Settings
from task4_sed.pretraining.settings import OfficeSettings
from task4_sed.pretraining.settings import PretrainSettings as FramePretrainSettings
from task4_sed.systems import SYSTEM
from tests.support.places import ROOT

SCHEMAS: list[type[Settings]] = [
    Task1Settings, SYSTEM, FramePretrainSettings, OfficeSettings, RetrievalSettings, ImitationSettings,
    PretrainSettings, FineTuneSettings,
]  # fmt: skip
VALUES = [
    "1_", "1__0", "1_.5", "9" * 5000, "-1", "1e400", ".nan", "-.inf", "0x1f", "1:30", "2001-01-01", "true", "null", "~",
    "", "''", "[]", "{}", "[1, [2, {a: 3}]]", "{1: 2, null: 3}", "[" * 1000, "[" * 30 + "]" * 30, "*unknown", "&a [*a]",
    "!!binary aGk=", "!!int x", "!!python/object:os.system x", "\0", "\x1b[31m", "\ud7ff\u2028", "|", ">-", "? [1]",
    "<<", "x" * 200_000, "- - - 1", "%", "@", "`", "'", '"', "#", ": :", "e\u0301",
]  # fmt: skip


@cache
def shipped() -> list[tuple[str, type[Settings]]]:
    """Text and schema of every configuration."""
    found = []
    for path in sorted([*ROOT.glob("*/configs/*.yaml"), *ROOT.glob("common/audioset/configs/*.yaml")]):
        fitting = [schema for schema in SCHEMAS if loads(schema, path)]
        found += [(path.read_text(), schema) for schema in fitting[:1]]
    return found


def loads(schema: type[Settings], path: Path) -> bool:
    try:
        load_settings(schema, path)
    except UserError:
        return False
    return True


def mutate(text: str, random: np.random.Generator) -> bytes:
    """One to three damages: values and names replaced, lines lost, doubled or moved, characters and bytes changed."""
    for _ in range(random.integers(1, 4)):
        lines = text.split("\n")
        at = int(random.integers(len(lines)))
        value = VALUES[random.integers(len(VALUES))]
        match random.integers(8):
            case 0 | 1:
                lines[at] = lines[at].partition(":")[0] + ": " + value
            case 2:
                lines[at] = value + ":" + lines[at].partition(":")[2]
            case 3:
                del lines[at : at + int(random.integers(1, 4))]
            case 4:
                lines.insert(int(random.integers(len(lines))), lines[at])
            case 5:
                lines[at] = lines[at].lstrip() if random.integers(2) else "  " + lines[at]
            case 6:
                place = int(random.integers(len(lines[at]) + 1))
                lines[at] = lines[at][:place] + value + lines[at][place + 1 :]
            case _:
                place = int(random.integers(len(lines[at]) + 1))
                lines[at] = lines[at][:place] + chr(int(random.integers(1, 256))) + lines[at][place:]
        text = "\n".join(lines)
    content = bytearray(text.encode())
    if content and random.integers(10) == 0:
        content[random.integers(len(content))] = random.integers(256)
    return bytes(content)


def mutations(count: int) -> Iterator[tuple[bytes, type[Settings]]]:
    random = np.random.default_rng(0)
    for number in range(count):
        text, schema = shipped()[number % len(shipped())]
        yield mutate(text, random), schema


def test_every_shipped_configuration_has_a_schema():
    assert len(shipped()) >= 50


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_named_with_its_lines(tmp_path, count):
    path = tmp_path / "settings of mine.yaml"
    refused = 0
    for content, schema in mutations(count):
        path.write_bytes(content)
        begin = time.process_time()
        try:
            load_settings(schema, path)
        except UserError as error:
            refused += 1
            lines = str(error).split("\n")
            for line in lines:
                assert re.match(rf"{re.escape(str(path))}:\d+: |There are .* more mistakes\.$", line), line[:300]
        assert time.process_time() - begin < 2, content[:1000]
    assert refused > count // 2

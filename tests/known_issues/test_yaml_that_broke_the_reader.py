"""Settings, overrides and meta files that ended in a traceback, ran for minutes, or printed whole screens."""

import re
import time
from pathlib import Path

import pytest

from common.cli import run
from common.cli.arguments import config_verb
from common.errors import UserError
from common.inference.complexity import describe
from common.output import print_table
from common.settings import load_settings
from common.settings.yaml_file import parse_value, read_yaml
from retrieval.settings import RetrievalSettings
from submissions.schema import MetaFile
from task4_sed.systems import SYSTEM

BOMB = "".join(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}' if level else 'a'] * 10)}]\n" for level in range(8))
BROKEN = {
    "an underscore at the end": ("seed: 1_", r':1: seed is "1_"; it must be a whole number'),
    "two underscores": ("seed: 1__0", r':1: seed is "1__0"; it must be a whole number'),
    "an underscore before the point": ("trainer: {devices: 1_.5}", r':1: trainer\.devices is "1_.5"'),
    "5,000 digits": ("seed: " + "9" * 5000, ":1: seed has 5000 digits; a whole number has at most 18"),
    "a control byte": ("seed: 1\nname: a\0b", ":2: this is not YAML: it holds the control character 0x00"),
    "a name that is a number": ("name: x\n!!int 5: 1", ":2: 5 is not a setting"),
    "a name that is nothing": ("name: x\n~: 1", ":2: None is not a setting"),
    "1,000 brackets": ("seed:\n  " + "[" * 1000, ":2: lists and groups are nested more than 50 deep"),
    "1,000 levels": (
        "\n".join(" " * level + "a:" for level in range(1000)),
        r":\d+: lists and groups are nested",
    ),
    "aliases of aliases": (BOMB, ":1: aliases make more than 100,000 values"),
    "no UTF-8": (b"seed: 1\nname: \xff", ":2: this is not text in UTF-8"),
}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence_with_its_line(tmp_path, name):
    text, sentence = BROKEN[name]
    path = write(tmp_path / "broken.yaml", text)
    begin = time.process_time()
    with pytest.raises(UserError, match=rf"broken\.yaml{sentence}") as error:
        load_settings(RetrievalSettings, path)
    assert time.process_time() - begin < 1 and len(str(error.value)) < 3000


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_meta_file_is_read_with_its_mistakes(tmp_path, name):
    begin = time.process_time()
    MetaFile(write(tmp_path / "broken.yaml", BROKEN[name][0]))
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("text", ["1_", "1__0", "1_.5", "9" * 5000, "a\0b", "[" * 1000, "{5: " * 100, "&a [*a]"])
def test_a_broken_override_is_refused_in_one_sentence(text, capsys):
    def train(settings: object) -> None:
        """Train."""

    verbs = {"train": config_verb(RetrievalSettings, train)}
    assert run("kit", verbs, ["train", "retrieval/configs/small.yaml", "--contrastive.lr", text]) == 2
    assert re.match(r"--contrastive\.lr is .*; it must be a number\.\n$", capsys.readouterr().err)


def test_underscores_between_digits_stay_numbers(tmp_path):
    assert [parse_value(text) for text in ("1_000", "1_0.5", "1_0e3", "-2_5")] == [1000, 10.5, 10_000.0, -25]
    assert read_yaml(write(tmp_path / "a.yaml", "a: 1_0\nb: 0_1.2_5")).data == {"a": 10, "b": 1.25}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("      accumulate: 8", "      acumulate: 8", "acumulate is not a setting. Did you mean accumulate?"),
        ("      optim: {cnn_lr: 1.0e-5", "      optim: {cnn_lr: fast", 'optim.cnn_lr is "fast"; it must be a number.'),
    ],
)
def test_a_mistake_inside_the_two_iterations_has_its_line(tmp_path, old, new, sentence):
    text = Path("task4_sed/configs/two_iterations.yaml").read_text()
    line = text[: text.index(old)].count("\n") + 1
    path = write(tmp_path / "two.yaml", text.replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(f"{path}:{line}: transformers.atst.stage2: {sentence}")):
        load_settings(SYSTEM, path)


def test_an_override_inside_the_two_iterations_is_named():
    path = Path("task4_sed/configs/two_iterations.yaml")
    with pytest.raises(UserError, match=r"^--transformers\.atst\.stage2: accumulate is 0; it must be 1 or more\."):
        load_settings(SYSTEM, path, {"transformers.atst.stage2.accumulate": 0})


def test_3000_unknown_names_are_counted_and_not_all_shown(tmp_path):
    text = Path("retrieval/configs/small.yaml").read_text()
    path = write(tmp_path / "many.yaml", text + "".join(f"\nkey_{number}: 1" for number in range(3000)))
    with pytest.raises(UserError) as error:
        load_settings(RetrievalSettings, path)
    assert len(str(error.value)) < 20_000 and str(error.value).endswith("There are 2,980 more mistakes.")


def test_a_huge_value_is_shown_shortened(tmp_path, capsys):
    path = write(tmp_path / "huge.yaml", "? " + "x" * 200_000 + "\n: 1\nseed: " + "y" * 200_000)

    def train(settings: object) -> None:
        """Train."""

    assert run("kit", {"train": config_verb(RetrievalSettings, train)}, ["train", str(path)]) == 2
    shown = capsys.readouterr().err
    assert len(shown) < 10_000 and "more characters" in shown and "seed is" in shown


def test_a_huge_cell_of_a_table_is_shown_shortened(capsys):
    print_table([{"caption": "x" * 200_000, "rank": 1}])
    shown = capsys.readouterr().out
    assert len(shown) < 10_000 and "more characters" in shown


@pytest.mark.parametrize("text", ["\0", "- a", "model: x", "5", "[" * 1000])
def test_a_run_with_a_broken_settings_file_has_no_complexity(tmp_path, text):
    write(tmp_path / "settings.yaml", text)
    with pytest.raises(UserError, match=r"settings\.yaml"):
        describe(str(tmp_path))

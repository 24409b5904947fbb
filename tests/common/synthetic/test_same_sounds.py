"""Made-up data of a seed stay as they are: figures on them can be compared over versions.

`python -m tests.common.synthetic.test_same_sounds` writes the golden file anew.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
import yaml

from common.data.files import MARKER
from common.synthetic import dcase2016, moments, retrieval, sounds
from common.synthetic.events import EVENT_SOUNDS, render_event
from common.synthetic.scenes import DEVICES, SCENES, SECONDS, draw_place, record, record_with
from common.synthetic.synthesize import DATA_SETS, synthesize
from tests.support.places import ROOT

GOLDEN = ROOT / "tests" / "golden" / "made_up_sounds.yaml"
CLIPS = {"retrieval": 12, "moments": 4}
SMALL = {
    "task1_asc": 100,
    "task4_sed": 40,
    "imitation": 10,
    "audioset": 60,
    "audioset_strong": 40,
    "dcase2016_task2": 2,
    "broad_sounds": 184,
}
"""Clips of the data sets that are described by folder."""
SHARED_BY_TESTS = {"task1_asc": "tiny_task1", "task4_sed": "tiny_task4", "audioset": "tiny_audioset",
                   "audioset_strong": "tiny_strong"}  # fmt: skip
"""Fixtures with these data sets; other tests may have packed their clips."""


def describe_sound(samples: np.ndarray) -> list[float]:
    """Length, level, and level of the differences, which tells high from low sounds; six digits."""
    levels = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (samples, np.diff(samples)))
    return [len(samples), *(float(f"{level:.6g}") for level in levels)]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def describe_folder(root: Path) -> dict[str, Any]:
    """Each file: a digest of a text, a description of a sound."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".wav":
            found[name] = describe_sound(soundfile.read(path, dtype="float32")[0])
        else:
            found[name] = digest(path.read_bytes())
    return found


def describe_folders(root: Path) -> dict[str, Any]:
    """Each text and array of an HDF5 file: a digest; sounds and arrays: a description of those of a folder."""
    found: dict[str, Any] = {}
    parts: dict[str, list[list[float]]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != MARKER):
        if path.suffix in (".wav", ".mp3"):
            samples = soundfile.read(path, dtype="float32")[0]
            parts.setdefault(f"{path.parent.relative_to(root)}/*{path.suffix}", []).append(describe_sound(samples))
        elif path.suffix == ".npy":
            parts.setdefault(f"{path.parent.relative_to(root)}/*.npy", []).append(
                describe_sound(np.cumsum(np.load(path)))
            )
        elif path.suffix == ".hdf":
            with h5py.File(path) as file:
                found[str(path.relative_to(root))] = {
                    name: list(file[name].shape) if name == "mp3" else digest(file[name][()].tobytes())
                    for name in sorted(file)
                }
        else:
            found[str(path.relative_to(root))] = digest(path.read_bytes())
    for name, each in parts.items():
        found[name] = [len(each), *(float(f"{mean:.6g}") for mean in np.mean(each, axis=0))]
    return found


def made_small(name: str, root: Path) -> dict[str, Any]:
    """The data set of seed 0 by its folders."""
    synthesize(name, root, SMALL[name], 0)
    return describe_folders(root)


def made(name: str, root: Path) -> dict[str, Any]:
    """The data set of seed 3, described."""
    if name == "moments":
        moments.write(root, CLIPS[name], moments.count(CLIPS[name]), 3, lengths=(8, 12))
    else:
        retrieval.write(root, CLIPS[name], retrieval.count(CLIPS[name]), 3)
    return describe_folder(root)


def kinds() -> dict[str, list[list[float]]]:
    """Each kind of sound, slow and quick, three seconds."""
    return {
        sound.name: [
            describe_sound(sound.render(3 * retrieval.SAMPLE_RATE, np.random.default_rng(5), pace))
            for pace in (0.6, 1.8)
        ]
        for sound in retrieval.SOUNDS
    }


def scenes() -> dict[str, list[float]]:
    """Ten seconds of each source of Task 1's scenes and of each scene, and a recording of each device."""
    names = sorted({name for mix in SCENES.values() for name in mix})
    samples = SECONDS * sounds.SAMPLE_RATE
    found = {name: getattr(sounds, name)(np.random.default_rng(5), samples, 0.4) for name in names}
    for scene in SCENES:
        random = np.random.default_rng(5)
        found[f"scene {scene}"] = record(random, draw_place(random, scene))
    for device in DEVICES:
        found[f"device {device}"] = record_with(np.random.default_rng(5), found["scene bus"], device)
    return {name: describe_sound(sound) for name, sound in found.items()}


def events() -> dict[str, list[float]]:
    """Two seconds of each event of Task 4 and of DCASE 2016."""
    recipes = {**EVENT_SOUNDS, **{f"office {name}": sound for name, sound in dcase2016.SOUNDS.items()}}
    return {name: describe_sound(render_event(sound, 2.0, np.random.default_rng(5))) for name, sound in recipes.items()}


def counts() -> dict[str, dict[str, int]]:
    """Products of 60 and of 2 clips."""
    return {
        f"{name} {clips}": module.count(clips)
        for name, module in (("retrieval", retrieval), ("moments", moments))
        for clips in (60, 2)
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=2e-4) if isinstance(value, list) else value), name


@pytest.mark.parametrize("name", ["retrieval", "moments"])
def test_a_seed_gives_the_same_texts_and_sounds(name, golden, tmp_path):
    compare(made(name, tmp_path), golden[name])


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_the_same_folders(name, golden, tmp_path, request):
    if name in SHARED_BY_TESTS:
        found = describe_folders(request.getfixturevalue(SHARED_BY_TESTS[name]))
    else:
        found = made_small(name, tmp_path / "data")
    expected = golden[name]
    for file, value in expected.items():
        assert found[file] == (pytest.approx(value, rel=5e-4) if isinstance(value, list) else value), file


def test_every_kind_of_sound_is_as_it_was(golden):
    for name, each in kinds().items():
        for found, expected in zip(each, golden["kinds"][name], strict=True):
            assert found == pytest.approx(expected, rel=2e-4), name


@pytest.mark.parametrize(("kind", "make"), [("scenes", scenes), ("events", events)])
def test_every_source_and_event_sounds_as_it_did(golden, kind, make):
    found = make()
    assert list(found) == list(golden[kind])
    for name, expected in golden[kind].items():
        assert found[name] == pytest.approx(expected, rel=2e-4), name


def test_the_number_of_products_follows_the_number_of_clips(golden):
    assert counts() == golden["counts"]
    assert {data_set.task: data_set.default_clips for data_set in DATA_SETS} == golden["default clips"]


def main() -> None:
    content: dict[str, Any] = {"kinds": kinds(), "counts": counts(), "scenes": scenes(), "events": events()}
    content["default clips"] = {data_set.task: data_set.default_clips for data_set in DATA_SETS}
    for name in CLIPS:
        with tempfile.TemporaryDirectory() as folder:
            content[name] = made(name, Path(folder))
    for name in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            content[name] = made_small(name, Path(folder) / "data")
    GOLDEN.write_text(yaml.safe_dump(content, sort_keys=False, width=120, default_flow_style=None), encoding="utf-8")


if __name__ == "__main__":
    main()

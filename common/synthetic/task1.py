"""A made-up set in the official layout of TAU Urban Acoustic Scenes 2022 Mobile, with evaluation sets beside it.

    ROOT/TAU-urban-acoustic-scenes-2022-mobile-development/
        audio/ meta.csv evaluation_setup/{fold1_train,fold1_test,fold1_evaluate}.csv
    ROOT/TAU-urban-acoustic-scenes-2024-mobile-evaluation/
        audio/ meta.csv evaluation_setup/fold1_test.csv made_up_truth.csv
    ROOT/TAU-urban-acoustic-scenes-2025-mobile-evaluation/
        the same clips, and a column device_id in fold1_test.csv: a device of the training split, or unknown
    ROOT/split_setup/
        split5.csv .. split100.csv test.csv

As in the real set: one-second pieces of ten-second segments, parallel recordings of several devices, no place in two
splits, subsets that are nested by segment, device a in most of the training clips, s4..s6 in the test split only.
"""

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.data.audio import write_wav
from common.data.made_up import claim_folder, finish_folder
from common.output import Progress
from common.synthetic.layout import write_rows
from common.synthetic.scenes import SCENES, draw_place, record, record_with
from common.synthetic.sounds import SAMPLE_RATE

VERSION = 1
DEVELOPMENT = "TAU-urban-acoustic-scenes-2022-mobile-development"
EVALUATION = "TAU-urban-acoustic-scenes-2024-mobile-evaluation"
EVALUATION_2025 = "TAU-urban-acoustic-scenes-2025-mobile-evaluation"
CITIES = ("barcelona", "helsinki", "lisbon", "london", "lyon", "milan", "paris", "prague", "stockholm", "vienna")
NEW_CITIES = ("amsterdam", "madrid")
COLUMNS = ("filename", "scene_label", "identifier", "source_label")
SUBSETS = (5, 10, 25, 50, 100)
PIECES = 10
# Segments per scene: training, test, and (over all scenes) in neither, of the default size; --clips scales them.
TRAINING, TEST, LEFT_OVER, EVALUATED = 30, 18, 10, 30
DEFAULT_CLIPS = PIECES * (len(SCENES) * (TRAINING + TEST) + LEFT_OVER)
# Three in a row, one of each group, record the same sound: real, seen and unseen are compared on equal terms.
TEST_DEVICES = ("a", "s1", "s4", "b", "s2", "s5", "c", "s3", "s6")
FEW_IN_TRAINING = ("b", "c", "s1", "s2", "s3")
SHARE_OF_FEW = 0.27
EVALUATION_DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6", "d", "s7", "s8", "s9", "s10")
# Independent streams of random numbers.
PLACES, SOUND, DEVICE, ORDER = range(4)


@dataclass(frozen=True)
class Recording:
    """Ten seconds of sound at a place, recorded by one or more devices."""

    number: int
    scene: str
    place: int
    city: str
    devices: tuple[str, ...]
    split: str
    """train, test, neither or evaluation."""

    @property
    def identifier(self) -> str:
        """City and place."""
        return f"{self.city}-{1000 + self.place}"

    def segment(self, device: str) -> list[str]:
        """Names of the ten pieces."""
        stem = f"{self.scene}-{self.identifier}-{40000 + self.number}"
        return [f"audio/{stem}-{piece}-{device}.wav" for piece in range(PIECES)]


def write_task1(root: Path, clips: int | None = None, seed: int = 0, workers: int | None = None) -> dict[str, int]:
    """Write the made-up Task 1 data, or finish it, or keep it when it is there.

    Args:
        root: folder that will hold the data sets' folders.
        clips: development clips, about; None makes 4,900 (3,000 to train on, 1,800 to test on).
        seed: the same seed gives the same files, bit for bit, whatever the number of workers.
        workers: processes; None takes one per core that this process may use.

    Returns:
        Clips in development, train, test and evaluation.

    Raises:
        UserError: if a folder is there that was not made up, or made up otherwise.
    """
    made_from = {"task": "task1_asc", "version": VERSION, "clips": clips or DEFAULT_CLIPS, "seed": seed}
    folders = [Path(root) / DEVELOPMENT, Path(root) / EVALUATION, Path(root) / EVALUATION_2025]
    whole = [claim_folder(folder, made_from) for folder in folders]
    recordings = plan_recordings((clips or DEFAULT_CLIPS) / DEFAULT_CLIPS, seed)
    numbers = _numbers(recordings, seed)
    if not all(whole):
        _write_audio(recordings, folders, seed, workers or len(os.sched_getaffinity(0)))
        _write_development_tables(folders[0], Path(root) / "split_setup", recordings, seed)
        _write_evaluation_tables(folders[1], folders[2], recordings, seed)
        _link_audio(folders[1], folders[2])
        for folder in folders:
            for part in folder.rglob(".*.part"):  # what an earlier call was writing when it was killed
                part.unlink()
            finish_folder(folder, made_from, numbers[folder.name])
    development = numbers[DEVELOPMENT]
    return {
        "development": sum(len(_names(recordings, split)) for split in ("train", "test", "neither")),
        "train": development["100"]["clips"],
        "test": development["test"]["clips"],
        "evaluation": numbers[EVALUATION]["evaluation"]["clips"],
    }


def plan_recordings(scale: float, seed: int) -> list[Recording]:
    """Scenes, places, cities, devices and splits of all recordings; each scene has two training places or more."""
    random = np.random.default_rng((seed, ORDER))
    recordings: list[Recording] = []
    place, few = 0, 0

    def add(scene: str, devices: list[tuple[str, ...]], num_places: int, split: str, cities: tuple[str, ...]) -> None:
        nonlocal place
        for index, recorded_by in enumerate(devices):
            here = place + index % num_places
            recordings.append(Recording(len(recordings), scene, here, cities[here % len(cities)], recorded_by, split))
        place += num_places

    for index, scene in enumerate(SCENES):
        total = max(3, round(TRAINING * scale))
        num_few = max(1, round(SHARE_OF_FEW * total))
        devices = [["a"] for _ in range(total - num_few)]
        for chosen in random.permutation(np.resize(np.arange(len(devices)), num_few)):
            devices[chosen].append(FEW_IN_TRAINING[few % len(FEW_IN_TRAINING)])
            few += 1
        training = [tuple(dict.fromkeys(group)) for group in devices]
        add(scene, training, max(2, round(len(devices) / 2.2)), "train", CITIES)
        count = max(1, round(TEST * scale))
        order = [TEST_DEVICES[(4 * index + k) % len(TEST_DEVICES)] for k in range(count)]
        groups = [tuple(order[first : first + 3]) for first in range(0, count, 3)]
        add(scene, groups, len(groups), "test", CITIES)
    for index in range(max(2, round(LEFT_OVER * scale))):
        add(list(SCENES)[index % len(SCENES)], [(("a", "s4", "a", "s5", "a", "s6")[index % 6],)], 1, "neither", CITIES)
    for index in range(max(len(SCENES), round(EVALUATED * scale))):
        scene, device = list(SCENES)[index % len(SCENES)], EVALUATION_DEVICES[index % len(EVALUATION_DEVICES)]
        add(scene, [(device,)], 1, "evaluation", CITIES + NEW_CITIES)
    return recordings


def _write_audio(recordings: list[Recording], folders: list[Path], seed: int, workers: int) -> None:
    evaluation_names = dict(zip(_names(recordings, "evaluation"), _evaluation_numbers(recordings, seed)))
    write = partial(_write_recording, folders=folders, seed=seed, evaluation_names=evaluation_names)
    with Progress("Making Task 1 data", len(recordings), "recordings") as progress:
        if workers == 1:
            for recording in recordings:
                write(recording)
                progress.advance()
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for _ in pool.map(write, recordings, chunksize=4):
                progress.advance()


def _write_recording(recording: Recording, folders: list[Path], seed: int, evaluation_names: dict[str, str]) -> None:
    """Write the pieces of a recording unless all are there; each is written whole or not at all."""
    paths = {device: _paths(recording, device, folders, evaluation_names) for device in recording.devices}
    if all(path.is_file() for pieces in paths.values() for path in pieces):
        return
    place = draw_place(np.random.default_rng((seed, PLACES, recording.place)), recording.scene)
    sound = record(np.random.default_rng((seed, SOUND, recording.number)), place)
    for index, (device, pieces) in enumerate(paths.items()):
        recorded = record_with(np.random.default_rng((seed, DEVICE, recording.number, index)), sound, device)
        for piece, path in zip(recorded.reshape(PIECES, SAMPLE_RATE), pieces):
            write_wav(path, piece, SAMPLE_RATE, "PCM_24")


def _paths(recording: Recording, device: str, folders: list[Path], evaluation_names: dict[str, str]) -> list[Path]:
    names = recording.segment(device)
    if recording.split == "evaluation":
        return [folders[1] / evaluation_names[name] for name in names]
    return [folders[0] / name for name in names]


def _names(recordings: Iterable[Recording], split: str) -> list[str]:
    return [name for one in recordings if one.split == split for device in one.devices for name in one.segment(device)]


def _evaluation_numbers(recordings: list[Recording], seed: int) -> list[str]:
    count = len(_names(recordings, "evaluation"))
    return [f"audio/{number}.wav" for number in np.random.default_rng((seed, ORDER, 1)).permutation(count)]


def _subset(recordings: list[Recording], percent: int, seed: int) -> list[str]:
    """Names of the clips of a nested subset: whole segments, scene after scene in turn, each scene at least once."""
    random = np.random.default_rng((seed, ORDER, 2))
    columns = []
    for scene in SCENES:
        segments = [
            one.segment(d) for one in recordings if (one.split, one.scene) == ("train", scene) for d in one.devices
        ]
        columns.append([segments[index] for index in random.permutation(len(segments))])
    longest = max(map(len, columns))
    in_turn = [column[row] for row in range(longest) for column in columns if row < len(column)]
    count = max(len(SCENES), round(percent * len(in_turn) / 100))
    return [name for segment in in_turn[:count] for name in segment]


def _split_names(recordings: list[Recording], seed: int) -> dict[str, list[str]]:
    names = {str(percent): _subset(recordings, percent, seed) for percent in SUBSETS}
    return {**names, "test": _names(recordings, "test")}


def _write_development_tables(folder: Path, split_setup: Path, recordings: list[Recording], seed: int) -> None:
    rows = sorted(row for one in recordings if one.split != "evaluation" for row in _labelled(one))
    write_rows(folder / "meta.csv", [COLUMNS, *rows])
    setup = folder / "evaluation_setup"
    for split, members in _split_names(recordings, seed).items():
        chosen = set(members)
        labelled = [COLUMNS[:2], *(row[:2] for row in rows if row[0] in chosen)]
        write_rows(split_setup / ("test.csv" if split == "test" else f"split{split}.csv"), labelled)
        if split == "100":
            write_rows(setup / "fold1_train.csv", labelled)
        if split == "test":
            write_rows(setup / "fold1_evaluate.csv", labelled)
            write_rows(setup / "fold1_test.csv", [row[:1] for row in labelled])


def _labelled(recording: Recording) -> list[tuple[str, ...]]:
    """Rows of meta.csv."""
    return [
        (name, recording.scene, recording.identifier, device)
        for device in recording.devices
        for name in recording.segment(device)
    ]


def _write_evaluation_tables(folder: Path, folder_2025: Path, recordings: list[Recording], seed: int) -> None:
    """Tables of 2024; and of 2025, with the devices that are known."""
    truth = [row for one in recordings if one.split == "evaluation" for row in _labelled(one)]
    numbered = [(name, *row[1:]) for name, row in zip(_evaluation_numbers(recordings, seed), truth, strict=True)]
    rows = sorted(numbered, key=lambda row: int(row[0][6:-4]))
    names = [COLUMNS[:1], *(row[:1] for row in rows)]
    write_rows(folder / "meta.csv", names)
    write_rows(folder / "evaluation_setup" / "fold1_test.csv", names)
    write_rows(folder / "made_up_truth.csv", [COLUMNS, *rows])  # nothing like this exists for the real set
    known = [(name, device if device in ("a", *FEW_IN_TRAINING) else "unknown") for name, _, _, device in rows]
    write_rows(folder_2025 / "evaluation_setup" / "fold1_test.csv", [("filename", "device_id"), *known])


def _link_audio(earlier: Path, folder: Path) -> None:
    """The same clips, as links where the file system has them."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    for clip in (earlier / "audio").glob("*.wav"):
        link = folder / "audio" / clip.name
        if not link.is_file():
            try:
                os.link(clip, link)
            except OSError:
                shutil.copyfile(clip, link)


def _numbers(recordings: list[Recording], seed: int) -> dict[str, dict[str, Any]]:
    """Per folder and split, for `data check`: clips, segments, clips of each scene and device."""
    splits = {**_split_names(recordings, seed), "neither": _names(recordings, "neither")}
    evaluation = {"evaluation": {"clips": len(_names(recordings, "evaluation"))}}
    return {
        DEVELOPMENT: {split: _count(names) for split, names in splits.items()},
        EVALUATION: evaluation,
        EVALUATION_2025: evaluation,
    }


def _count(names: list[str]) -> dict[str, Any]:
    fields = [name.removeprefix("audio/").removesuffix(".wav").split("-") for name in names]
    scenes, devices = Counter(field[0] for field in fields), Counter(field[5] for field in fields)
    return {
        "clips": len(names),
        "segments": len(names) // PIECES,
        "scenes": {scene: scenes[scene] for scene in SCENES},
        "devices": dict(sorted(devices.items())),
    }

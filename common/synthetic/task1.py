"""A made-up set in the official layout of TAU Urban Acoustic Scenes 2022 Mobile, with evaluation sets.

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

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from common.data.audio import write_wav
from common.data.files import claim_folder, finish_folder
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
# Segments per scene in training and test, and over all scenes in neither, by default; --clips scales them.
TRAINING, TEST, LEFT_OVER, EVALUATED = 30, 18, 10, 30
DEFAULT_CLIPS = PIECES * (len(SCENES) * (TRAINING + TEST) + LEFT_OVER)
# Three in a row, one of each group, record the same sound, for a fair comparison of real, seen and unseen devices.
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
    """Write the made-up Task 1 data, or finish it; complete data are kept.

    `clips` is about the number of development clips; by default 3,000 for training and 1,800 for the test. The files
    do not depend on the number of worker processes, by default one per core.
    """
    clips, root = clips or DEFAULT_CLIPS, Path(root)
    made_from = {"task": "task1_asc", "version": VERSION, "clips": clips, "seed": seed}
    folders = [root / name for name in (DEVELOPMENT, EVALUATION, EVALUATION_2025)]
    whole = [claim_folder(folder, made_from) for folder in folders]
    recordings = plan_recordings(clips / DEFAULT_CLIPS, seed)
    table = _clip_table(recordings, seed)
    development, evaluation = (part for _, part in table.groupby(table["split"] == "evaluation"))
    splits = _splits(development, seed)
    if not all(whole):
        _write_audio(recordings, table, root, seed, workers or len(os.sched_getaffinity(0)))
        _write_development_tables(root, development, splits)
        _write_evaluation_tables(folders[1], folders[2], evaluation)
        for folder, numbers in zip(folders, ({name: _count(part) for name, part in splits.items()}, None, None)):
            for part in folder.rglob(".*.part"):  # an earlier call was killed while it wrote this
                part.unlink()
            finish_folder(folder, made_from, numbers or {"evaluation": {"clips": len(evaluation)}})
    counts = {"train": len(splits["100"]), "test": len(splits["test"]), "evaluation": len(evaluation)}
    return {"development": len(development), **counts}


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


def _clip_table(recordings: list[Recording], seed: int) -> pd.DataFrame:
    """A row for each clip: COLUMNS, its recording and split. Evaluation clips have numbers for names."""
    rows = [
        (name, one.scene, one.identifier, device, one.number, one.split)
        for one in recordings
        for device in one.devices
        for name in one.segment(device)
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "recording", "split"])
    evaluation = table.index[table["split"] == "evaluation"]
    numbers = np.random.default_rng((seed, ORDER, 1)).permutation(len(evaluation))
    table.loc[evaluation, "filename"] = [f"audio/{number}.wav" for number in numbers]
    return table


def _splits(development: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    """Clips of the nested subsets, of the test split, and of neither.

    A subset takes whole segments, scene after scene in turn, each scene at least once.
    """
    random = np.random.default_rng((seed, ORDER, 2))
    of = dict(list(development.groupby("split", sort=False)))
    columns = []
    for scene in SCENES:
        clips = of["train"].index[of["train"]["scene_label"] == scene].to_numpy().reshape(-1, PIECES)
        columns.append(clips[random.permutation(len(clips))])
    in_turn = [column[row] for row in range(max(map(len, columns))) for column in columns if row < len(column)]
    counts = {percent: max(len(SCENES), round(percent * len(in_turn) / 100)) for percent in SUBSETS}
    subsets = {str(percent): of["train"].loc[np.concatenate(in_turn[:count])] for percent, count in counts.items()}
    return {**subsets, "test": of["test"], "neither": of["neither"]}


def _write_audio(recordings: list[Recording], table: pd.DataFrame, root: Path, seed: int, workers: int) -> None:
    paths = [root / (EVALUATION if split == "evaluation" else DEVELOPMENT) / name
             for name, split in zip(table["filename"], table["split"])]  # fmt: skip
    rows = table.groupby("recording").indices
    jobs = [(recording, [paths[row] for row in rows[recording.number]]) for recording in recordings]
    written = Parallel(workers, return_as="generator_unordered")(delayed(_write_recording)(*job, seed) for job in jobs)
    with Progress("Making Task 1 data", len(recordings), "recordings") as progress:
        for _ in written:
            progress.advance()


def _write_recording(recording: Recording, paths: list[Path], seed: int) -> None:
    """Write the pieces of a recording unless all are there; each appears whole or not at all."""
    if all(path.is_file() for path in paths):
        return
    place = draw_place(np.random.default_rng((seed, PLACES, recording.place)), recording.scene)
    sound = record(np.random.default_rng((seed, SOUND, recording.number)), place)
    for index, device in enumerate(recording.devices):
        recorded = record_with(np.random.default_rng((seed, DEVICE, recording.number, index)), sound, device)
        for piece, path in zip(recorded.reshape(PIECES, SAMPLE_RATE), paths[PIECES * index :]):
            write_wav(path, piece, SAMPLE_RATE, "PCM_24")


def _write_development_tables(root: Path, development: pd.DataFrame, splits: dict[str, pd.DataFrame]) -> None:
    folder = root / DEVELOPMENT
    _write_table(folder / "meta.csv", development.sort_values("filename"), COLUMNS)
    setup = folder / "evaluation_setup"
    by_name = {split: clips.sort_values("filename") for split, clips in splits.items()}
    for percent in SUBSETS:
        _write_table(root / "split_setup" / f"split{percent}.csv", by_name[str(percent)], COLUMNS[:2])
    _write_table(root / "split_setup" / "test.csv", by_name["test"], COLUMNS[:2])
    _write_table(setup / "fold1_train.csv", by_name["100"], COLUMNS[:2])
    _write_table(setup / "fold1_evaluate.csv", by_name["test"], COLUMNS[:2])
    _write_table(setup / "fold1_test.csv", by_name["test"], COLUMNS[:1])


def _write_evaluation_tables(folder: Path, folder_2025: Path, evaluation: pd.DataFrame) -> None:
    """Tables of 2024; tables of 2025 with the devices that are known, and links to the clips of 2024."""
    clips = evaluation.sort_values("filename", key=lambda names: names.str.extract(r"(\d+)", expand=False).astype(int))
    _write_table(folder / "meta.csv", clips, COLUMNS[:1])
    _write_table(folder / "evaluation_setup" / "fold1_test.csv", clips, COLUMNS[:1])
    _write_table(folder / "made_up_truth.csv", clips, COLUMNS)  # nothing like this exists for the real set
    known = clips["source_label"].where(clips["source_label"].isin(["a", *FEW_IN_TRAINING]), "unknown")
    setup = folder_2025 / "evaluation_setup"
    _write_table(setup / "fold1_test.csv", clips.assign(device_id=known), ("filename", "device_id"))
    (folder_2025 / "audio").mkdir(parents=True, exist_ok=True)
    for name in clips["filename"]:
        if not (folder_2025 / name).is_file():
            try:
                os.link(folder / name, folder_2025 / name)
            except OSError:  # a file system without links
                shutil.copyfile(folder / name, folder_2025 / name)


def _write_table(path: Path, clips: pd.DataFrame, columns: Sequence[str]) -> None:
    write_rows(path, [columns, *clips[list(columns)].itertuples(index=False)])


def _count(clips: pd.DataFrame) -> dict[str, Any]:
    """For `data check`: clips, segments, clips of each scene and device."""
    return {
        "clips": len(clips),
        "segments": len(clips) // PIECES,
        "scenes": clips["scene_label"].value_counts().reindex(SCENES, fill_value=0).to_dict(),
        "devices": clips["source_label"].value_counts().sort_index().to_dict(),
    }

"""Finished runs of the tasks with made-up figures: folders as their stages write them, without training."""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.files import write_json
from common.settings import dump_settings, load_settings
from retrieval.moments.settings import MomentSettings
from retrieval.settings import RetrievalSettings
from task1_asc.broad_sounds.report import SHOWN
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES
from task1_asc.data.tau2022 import CLASSES, DEVICES
from task1_asc.evaluate import write_predictions
from task1_asc.metrics import score_scenes
from task1_asc.settings import Task1Settings
from task4_sed.baseline.settings import Task4Settings
from tests.support.places import ROOT


def write_task1_run(folder: Path, subset: int, seed: int) -> Path:
    """A run of Task 1 whose scores and predictions come from random logits."""
    _write_settings(folder, Task1Settings, "task1_asc/configs/small.yaml", {"subset": subset, "seed": seed})
    random = np.random.default_rng([subset, seed])
    target = np.repeat(np.arange(len(CLASSES)), 2 * len(DEVICES))
    devices = np.tile(DEVICES, 2 * len(CLASSES))
    logits = random.normal(size=(len(target), len(CLASSES))) + (1 + subset / 50) * np.eye(len(CLASSES))[target]
    segments = [f"segment{number // 3}" for number in range(len(target))]
    scores = score_scenes(logits, target, devices, segments, random, resamples=20)
    facts = {"subset": subset, "seed": seed, "made_up": True, "float32": scores, "float16": scores}
    write_json(folder / "test" / "evaluation.json", facts)
    tested = [f"audio/{CLASSES[label]}-city-{number // 6}-0-{number % 6}-{device}.wav"
              for number, (label, device) in enumerate(zip(target, devices))]  # fmt: skip
    np.savez(folder / "test" / "logits.npz", float32=logits, target=target, filename=np.array(tested))
    write_json(folder / "train" / "energy.json", {"energy_kwh": 0.001, "seconds": 60.0, "components": {}})
    (folder / "train" / "metrics.csv").write_text("epoch,step,train_loss\n1,10,2.2\n2,20,2.0\n")
    names = [f"audio/{number}.wav" for number in range(30)]
    write_predictions(folder / "predictions" / "output.csv", names, random.normal(size=(30, len(CLASSES))))
    write_json(folder / "predictions" / "predictions.json", {"precision": "float16", "year": 2024, "made_up": True})
    return folder


def write_task1_sweep(folder: Path, subsets: tuple[int, ...], seeds: tuple[int, ...]) -> Path:
    """A sweep over subsets and seeds; its runs lie beside it."""
    cells = [(subset, seed) for subset in subsets for seed in seeds]
    runs = {f"subset={s} seed={r}": str(write_task1_run(folder.parent / f"s{s}_{r}", s, r)) for s, r in cells}
    write_json(folder / "sweep.json", {"over": ["subset", "seed"], "settings": {}, "runs": runs})
    return folder


def write_task4_run(folder: Path, seed: int = 0) -> Path:
    """A run of Task 4 with the same figures on each test set."""
    _write_settings(folder, Task4Settings, "task4_sed/configs/small.yaml", {"seed": seed})
    classes = {f"a_long_name_of_class_{number}": 0.123456 for number in range(3)}
    one = {"value": 0.45678, "interval": [0.412345, 0.501234], "per_class": classes}
    clips = {"scored": 1167, "expected": 1168, "comparable": False}
    desed = {**dict.fromkeys(("psds1", "psds2", "collar_f1", "intersection_f1"), one), "clips": clips}
    sets = {
        "validation": {**desed, "rank_score": one},
        "maestro_validation": {"mpauc": one, "segment_f1": one, "clips": clips},
        "public_evaluation": desed,
    }
    networks = {name: {"raw": sets, "postprocessed": sets} for name in ("student", "teacher")}
    facts = {"seed": seed, "made_up": True, "network": "teacher", "versions": {}, "networks": networks}
    write_json(folder / "test" / "evaluation.json", facts)
    return folder


def write_retrieval_run(folder: Path) -> Path:
    """A run of retrieval with the figures of six models."""
    _write_settings(folder, RetrievalSettings, "retrieval/configs/small.yaml", {})
    names = ("mAP@10", "R@1", "R@5", "R@10", "MRR", "multiple mAP@10", "multiple mAP@16")
    one = {"value": 0.54321, "interval": [0.49876, 0.60123]}
    figures = dict.fromkeys([*names, *(f"audio to text {name}" for name in names[:4])], one)
    models = dict.fromkeys(("contrastive mn", "contrastive mn_small", "distilled ensemble"), figures)
    facts = {"figures": models, "tested": "epoch of highest validation MRR", "clips": {"scored": 40, "notes": []}}
    write_json(folder / "test" / "evaluation.json", {**facts, "made_up": True, "tie_rule": "none"})
    return folder


def write_sounds_run(folder: Path) -> Path:
    """A run of broad sounds with the same figures on both data sets."""
    _write_settings(folder, SoundSettings, "task1_asc/broad_sounds/configs/small.yaml", {})
    one = {"value": 0.45678, "low": 0.412345, "high": 0.501234}
    figures = {name: {**one, "spread": 0.0123} for name in SHOWN}
    own = {"figures": figures, "phases": {"curated": one, "final": one}, "class_wise": {}, "never_predicted": ["m-si"]}
    own |= {"official": {"hP": 0.5, "hR": 0.6, "hF": 0.55}, "confusion": (3 * np.eye(len(CODES))).tolist()}
    facts = {"sets": {"bsd10k": own, "bsd35k": own}, "set": "bsd10k", "protocol": "published", "made_up": True}
    write_json(folder / "test" / "evaluation.json", facts)
    return folder


def write_moments_run(folder: Path) -> Path:
    """A run of moment retrieval with the figures of two ways to find them."""
    _write_settings(folder, MomentSettings, "retrieval/moments/configs/small.yaml", {})
    names = ("R1@0.5", "R1@0.7", "mAP", "mAP@0.5", "mAP@0.75", "R1@0.7 under 5 s", "R1@0.7 5 to 20 s",
             "R1@0.7 over 20 s")  # fmt: skip
    figures = {name: {"value": 0.45678, "interval": [0.412345, 0.501234]} for name in names}
    facts = {"figures": {"qd_detr": figures, "similarity": figures}, "clips": {"queries": 20, "recordings": 8}}
    tested = "epoch of highest validation R1@0.7"
    write_json(folder / "test" / "evaluation.json", {**facts, "tested": tested, "made_up": True})
    return folder


def _write_settings(folder: Path, settings_class: Any, config: str, changes: dict[str, Any]) -> None:
    overrides = {**changes, "runs": str(folder.parent), "name": folder.name}
    settings = load_settings(settings_class, ROOT / config, overrides)
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text(dump_settings(settings))
    package = settings_class.__module__.rpartition(".")[0]
    for stage in ("train", "test"):
        facts = {"package": package, "settings": {}, "seconds": 1.0, "energy_kwh": 0.001}
        write_json(folder / stage / "stage.json", facts)

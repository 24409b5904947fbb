"""Contrastive models -> estimated correspondences -> distilled models -> evaluation of each and of their ensemble.

"Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (DCASE workshop 2024), first place of
DCASE 2024 Task 8. With one model it is self-distillation.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.made_up import is_made_up
from common.errors import unknown
from common.files import atomic_path, atomic_write, write_json
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.stages import Run, Stage, do_two_steps, run_stages
from common.training.seeds import seed_all
from retrieval.clips import CaptionedClips, Manifest
from retrieval.correspondences import EstimatedCorrespondences, Teacher, text_teacher
from retrieval.data import read_relevance
from retrieval.evaluate import TIE_RULE, as_json, collapse_warning, per_query, rank_histogram, score
from retrieval.model import DualEncoder
from retrieval.settings import RetrievalSettings, Training
from retrieval.train import (
    embed_captions,
    embed_clips,
    load_checkpoint,
    make_model,
    make_teacher,
    make_text_encoder,
    train,
)

HEARD = ("data.validation", "data.max_duration", "data.window", "data.allow_missing")
TEXT_TEACHER = "text_similarity"


def train_contrastive(run: Run, settings: RetrievalSettings, name: str, fast_check: bool = False) -> None:
    """Stage 1 of one model, on `data.pretraining` (or `data.training`)."""
    sources = settings.data.pretraining or settings.data.training
    _train(run, settings, name, f"contrastive_{name}", settings.contrastive, sources, fast_check=fast_check)


def estimate_correspondences(run: Run, settings: RetrievalSettings, fast_check: bool = False) -> None:
    """Every teacher embeds every training clip and caption once: correspondences/<teacher>.npz."""
    manifest = Manifest.read(settings.data.training, settings.data.allow_missing)
    folder = run.folder / "correspondences"
    for name in _teacher_names(settings):
        model = load_model(run, settings, name, "contrastive")
        clips = CaptionedClips(manifest, model.audio.sample_rate, settings.data, random_part=False)
        make_teacher(name, model, clips, manifest.keys(), settings.eval_batch).write(folder / f"{name}.npz")
    if settings.correspondences.text_similarity is not None:
        encoder = make_text_encoder(settings.correspondences.text_similarity)
        captions = list(manifest.clips["captions"])
        rule = next(iter(settings.models.values())).text.caption_rule
        text_teacher(encoder, manifest.keys(), captions, rule).write(folder / f"{TEXT_TEACHER}.npz")


def train_distilled(run: Run, settings: RetrievalSettings, name: str, fast_check: bool = False) -> None:
    """Stage 2 of one model: from its stage 1, on `data.training`, towards the correspondences alone."""
    assert settings.distilled is not None
    manifest = Manifest.read(settings.data.training, settings.data.allow_missing)
    names = [name] if settings.correspondences.own_teacher_only else _teacher_names(settings)
    if settings.correspondences.text_similarity is not None:
        names = [*names, TEXT_TEACHER]
    captions = [caption for group in manifest.clips["captions"] for caption in group]
    teachers = EstimatedCorrespondences(
        [Teacher.read(run.folder / "correspondences" / f"{teacher}.npz") for teacher in names],
        manifest.keys(),
        captions,
        settings.models[name].text.caption_rule,
    )
    run.notes["target_entropy_bits"] = round(teachers.entropy(settings.models[name].temperature), 3)
    _train(
        run, settings, name, f"distilled_{name}", settings.distilled, settings.data.training, teachers,
        fast_check=fast_check,
    )  # fmt: skip


def evaluate(run: Run, settings: RetrievalSettings, fast_check: bool = False) -> None:
    """evaluation/: similarities of each model and of their mean, figures.json, queries.csv."""
    folder = run.folder / "evaluation"
    manifest = Manifest.read([settings.data.evaluation], settings.data.allow_missing)
    captions = [caption for group in manifest.clips["captions"] for caption in group]
    counts = torch.tensor([len(group) for group in manifest.clips["captions"]])
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    names = list(manifest.clips["file_name"])
    relevance = read_relevance(settings.data.relevance) if settings.data.relevance else None
    figures: dict[str, dict] = {}
    for stage in ("contrastive", "distilled") if settings.distilled else ("contrastive",):
        total = torch.zeros(len(captions), len(names))
        for name in settings.models:
            model = load_model(run, settings, name, stage)
            clips = CaptionedClips(manifest, model.audio.sample_rate, settings.data, random_part=False)
            audio = embed_clips(model, clips, settings.eval_batch)
            similarity = embed_captions(model, captions) @ audio.mT
            total += similarity
            figures[f"{stage} {name}"] = as_json(score(similarity, owner, captions, names, relevance, settings.seed))
            write_similarity(folder / f"{stage}_{name}.npz", similarity, captions, names)
            if warning := collapse_warning(similarity):
                say(f"{stage} {name}: {warning}")
        if len(settings.models) > 1:
            mean = total / len(settings.models)
            figures[f"{stage} ensemble"] = as_json(score(mean, owner, captions, names, relevance, settings.seed))
            write_similarity(folder / f"{stage}_ensemble.npz", mean, captions, names)
            similarity = mean
    queries = per_query(similarity, owner, captions, names)
    with atomic_write(folder / "queries.csv") as file:
        queries.to_csv(file, index=False)
    write_json(
        folder / "figures.json",
        {
            "figures": figures,
            "clips": {"scored": len(names), "notes": manifest.notes},
            "made_up": is_made_up_run(settings),
            "ranks": rank_histogram(queries["rank"].tolist(), len(names)),
            "tie_rule": TIE_RULE,
        },
    )


def stages_of(settings: RetrievalSettings) -> list[Stage]:
    """The recipe; each model's training is a stage of its own, so that it is kept, stopped and resumed alone."""
    learned = (*HEARD, "seed")
    contrastive = [
        Stage(
            f"contrastive_{name}",
            partial(train_contrastive, name=name),
            uses=("data.pretraining", "data.training", f"models.{name}", "contrastive", *learned),
            needs=(),
        )
        for name in settings.models
    ]
    read = ("data.evaluation", "data.relevance", "models", *learned)
    evaluation = Stage("evaluation", evaluate, uses=read, alone=True)
    if settings.distilled is None:
        return [*contrastive, evaluation]
    correspondences = Stage(
        "correspondences",
        estimate_correspondences,
        uses=("data.training", "models", "correspondences", *learned),
        needs=tuple(stage.name for stage in contrastive),
        alone=True,
    )
    distilled = [
        Stage(
            f"distilled_{name}",
            partial(train_distilled, name=name),
            uses=("data.training", f"models.{name}", "correspondences", "distilled", *learned),
            needs=(f"contrastive_{name}", "correspondences"),
        )
        for name in settings.models
    ]
    return [*contrastive, correspondences, *distilled, evaluation]


def run_recipe(settings: RetrievalSettings, folder: Path, redo: Sequence[str] = ()) -> None:
    """Do all stages that are not done."""
    run_stages(Run(folder, settings), stages_of(settings), redo)


def check_recipe(settings: RetrievalSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    do_two_steps(settings, stages_of(settings))


def result_row(folder: Path) -> dict[str, float]:
    """The figures of a finished run in one flat row, for the table of a sweep; 0..1."""
    figures = json.loads((folder / "evaluation" / "figures.json").read_text(encoding="utf-8"))["figures"]
    return {f"{model}: {name}": figure["value"] for model, found in figures.items() for name, figure in found.items()}


def sweep_cell(settings: RetrievalSettings) -> dict[str, float]:
    """One cell of a sweep: the run that the settings name, and its figures."""
    run_recipe(settings, settings.folder)
    return result_row(settings.folder)


def is_made_up_run(settings: RetrievalSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up(settings.data.evaluation.root)


def load_model(run: Run, settings: RetrievalSettings, name: str, stage: str) -> DualEncoder:
    """The best checkpoint of a model, on the GPU where there is one.

    Raises:
        UserError: if the model or its checkpoint is not there.
    """
    if name not in settings.models:
        raise unknown("model", name, settings.models)
    model = make_model(settings.models[name])
    load_checkpoint(model, run.files(f"{stage}_{name}/best.ckpt")[0])
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def write_similarity(
    path: Path, similarity: Tensor, captions: Sequence[str], names: Sequence[str], made_up: bool = False
) -> None:
    """One .npz: similarity (captions, clips) float32, captions, file_names, made_up."""
    arrays = {"similarity": similarity.numpy(), "captions": np.array(captions), "file_names": np.array(names)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, made_up=made_up)


def _train(
    run: Run,
    settings: RetrievalSettings,
    name: str,
    stage: str,
    training: Training,
    sources: Sequence,
    teachers: EstimatedCorrespondences | None = None,
    fast_check: bool = False,
) -> None:
    manifest = Manifest.read(sources, settings.data.allow_missing)
    for note in manifest.notes:
        say(note)
    validation = Manifest.read([settings.data.validation], settings.data.allow_missing)
    seed_all(settings.seed, sum(name.encode()))
    model = make_model(settings.models[name])
    if teachers is not None:
        load_checkpoint(model, run.files(f"contrastive_{name}/best.ckpt")[0])
    weight = 1.0 if teachers is None else settings.correspondences.contrastive_weight
    folder = run.folder / stage
    with EnergyMeter(folder if training.trainer.measure_energy else None, training.trainer.country):
        train(folder, model, manifest, validation, settings.data, training, settings.seed, teachers, weight, fast_check)


def _teacher_names(settings: RetrievalSettings) -> list[str]:
    names = list(settings.correspondences.teachers) or list(settings.models)
    for name in names:
        if name not in settings.models:
            raise unknown("teacher", name, settings.models)
    if settings.correspondences.own_teacher_only:
        return list(settings.models)
    return names

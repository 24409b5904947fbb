"""Contrastive models -> estimated correspondences -> distilled models -> test of each and of their ensemble.

"Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (DCASE workshop 2024), first place of
DCASE 2024 Task 8. With one model it is self-distillation.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.files import atomic_path, is_made_up, write_json, write_text
from common.errors import unknown
from common.models.network import choose_device
from common.output import say
from common.registry.models import create_front_end, find_architecture
from common.runs.recipe import Objective, Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.seeds import derive_seed, seed_all
from retrieval.correspondences import EstimatedCorrespondences, embed_by_text, write_teacher
from retrieval.data.captions import leaks, read_relevance
from retrieval.data.clips import CaptionedClips, Manifest, read_clips
from retrieval.evaluate import TIE_RULE, as_json, per_query, rank_histogram, score
from retrieval.model import DualEncoder, embed_captions, embed_clips, load_checkpoint, make_model, make_text_encoder
from retrieval.settings import MONITOR, RetrievalSettings

TextRun = Run[RetrievalSettings]
CLIPS = ("data.validation", "data.max_duration", "data.window", "data.encode_silence", "data.allow_missing", "seed")
LEARNED = (*CLIPS, "trainer.precision", "trainer.validate_every")
TEXT_TEACHER = "text_similarity"


def train_contrastive(run: TextRun, settings: RetrievalSettings, name: str, fast_check: bool = False) -> None:
    """Stage 1 of one model, on `data.pretraining` (or `data.training`)."""
    from retrieval.train import RetrievalModule, train

    seed_all(settings.seed, sum(name.encode()))
    module = RetrievalModule(make_model(settings.models[name]), settings.contrastive)
    sources = settings.data.pretraining or settings.data.training
    train(run.folder / f"contrastive_{name}", module, sources, settings, settings.seed, fast_check)


def estimate_correspondences(run: TextRun, settings: RetrievalSettings, fast_check: bool = False) -> None:
    """Every teacher embeds every training clip and caption once: correspondences/<teacher>/."""
    manifest = read_clips(*settings.data.training, allow_missing=settings.data.allow_missing)
    folder, keys = run.folder / "correspondences", manifest.keys()
    captions = list(dict.fromkeys(manifest.all_captions))
    for name in _teacher_names(settings):
        model = load_model(run, name, "contrastive")
        clips = CaptionedClips(manifest, model.sample_rate, settings.data, random_part=False)
        audio, text = embed_clips(model, clips, settings.eval_batch), embed_captions(model, captions)
        write_teacher(folder / name, keys, audio, captions, text, model.text.caption_rule)
    if settings.correspondences.text_similarity is not None:
        encoder = make_text_encoder(settings.correspondences.text_similarity)
        audio, captions, text = embed_by_text(encoder, manifest.captions)
        rule = next(iter(settings.models.values())).text.caption_rule  # captions are compared as the students read them
        write_teacher(folder / TEXT_TEACHER, keys, audio, captions, text, rule)


def train_distilled(run: TextRun, settings: RetrievalSettings, name: str, fast_check: bool = False) -> None:
    """Stage 2 of one model: from its stage 1, on `data.training`, towards the correspondences."""
    from retrieval.train import RetrievalModule, train

    assert settings.distilled is not None
    manifest = read_clips(*settings.data.training, allow_missing=settings.data.allow_missing)
    names = [name] if settings.correspondences.own_teacher_only else _teacher_names(settings)
    if settings.correspondences.text_similarity is not None:
        names = [*names, TEXT_TEACHER]
    folders = [run.folder / "correspondences" / teacher for teacher in names]
    rule = settings.models[name].text.caption_rule
    teachers = EstimatedCorrespondences(folders, manifest.keys(), manifest.all_captions, rule)
    run.notes["target_entropy_bits"] = round(teachers.entropy(settings.models[name].temperature), 3)
    model = make_model(settings.models[name])
    load_checkpoint(model, run.checkpoint(f"contrastive_{name}/best.ckpt"))
    module = RetrievalModule(model, settings.distilled, teachers, settings.correspondences)
    seed = derive_seed(settings.seed, 2)  # other batches and parts of clips than in stage 1
    train(run.folder / f"distilled_{name}", module, settings.data.training, settings, seed, fast_check)


def score_models(run: TextRun, settings: RetrievalSettings, fast_check: bool = False) -> None:
    """test/: similarities of each model and of their mean, evaluation.json, queries.csv."""
    folder = run.folder / "test"
    manifest = read_clips(settings.data.evaluation, allow_missing=settings.data.allow_missing)
    owner = torch.arange(len(manifest.captions)).repeat_interleave(torch.tensor(list(map(len, manifest.captions))))
    captions, names = manifest.all_captions, list(manifest.clips["file_name"])
    relevance = read_relevance(settings.data.relevance) if settings.data.relevance else None
    figures: dict[str, dict[str, Any]] = {}
    for stage in ("contrastive", "distilled") if settings.distilled else ("contrastive",):
        found = [similarities(load_model(run, name, stage), manifest, captions, settings) for name in settings.models]
        systems = dict(zip(settings.models, found))
        if len(found) > 1:
            systems["ensemble"] = torch.stack(found).mean(dim=0)
        for name, similarity in systems.items():
            figures[f"{stage} {name}"] = as_json(score(similarity, owner, captions, names, relevance, settings.seed))
            write_similarity(folder / f"{stage}_{name}.npz", similarity, captions, names)
            if (spread := float((similarity - similarity.mean(dim=0)).std())) < 1e-4:
                say(f"{stage} {name} has collapsed: similarities of different captions differ by {spread:.1e} only.")
    queries = per_query(similarity, owner, captions, names)
    write_text(folder / "queries.csv", queries.to_csv(index=False))
    write_json(
        folder / "evaluation.json",
        {
            "figures": figures,
            "tested": f"epoch of highest validation {MONITOR}",
            "clips": {"scored": len(names), "notes": manifest.notes},
            "made_up": is_made_up_data(settings),
            "ranks": rank_histogram(queries["rank"]),
            "tie_rule": TIE_RULE,
        },
    )


def similarities(
    model: DualEncoder, manifest: Manifest, captions: Sequence[str], settings: RetrievalSettings
) -> Tensor:
    """(captions, clips) cosines."""
    clips = CaptionedClips(manifest, model.sample_rate, settings.data, random_part=False)
    text, audio = embed_captions(model, captions), embed_clips(model, clips, settings.eval_batch)
    with torch.autocast("cpu", enabled=False):
        return text @ audio.mT


def make_stages(settings: RetrievalSettings) -> list[Stage]:
    """The stages; each training is one of its own, so that it is kept, interrupted and resumed alone."""
    contrastive = [
        Stage(
            f"contrastive_{name}",
            partial(train_contrastive, name=name),
            uses=("data.pretraining", "data.training", f"models.{name}", "contrastive", *LEARNED),
            needs=(),
        )
        for name in settings.models
    ]
    test = Stage("test", score_models, uses=("data.evaluation", "data.relevance", "models", *CLIPS), alone=True)
    if settings.distilled is None:
        return [*contrastive, test]
    correspondences = Stage(
        "correspondences",
        estimate_correspondences,
        uses=("data.training", "models", "correspondences", *CLIPS),
        needs=tuple(stage.name for stage in contrastive),
        alone=True,
    )
    distilled = [
        Stage(
            f"distilled_{name}",
            partial(train_distilled, name=name),
            uses=("data.training", f"models.{name}", "correspondences", "distilled", *LEARNED),
            needs=(f"contrastive_{name}", "correspondences"),
        )
        for name in settings.models
    ]
    return [*contrastive, correspondences, *distilled, test]


def result_row(run: Run[Any]) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; 0..1."""
    figures = run.read_evaluation()["figures"]
    return {f"{model}: {name}": figure["value"] for model, found in figures.items() for name, figure in found.items()}


def is_made_up_data(settings: RetrievalSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up(settings.data.evaluation.root)


def check_inputs(run: TextRun) -> None:
    """Refuse unknown networks and teachers, and missing clips, before a folder is made.

    Names training clips of evaluation sounds.
    """
    data = run.settings.data
    for model in run.settings.models.values():
        find_architecture(model.audio.model)
    _teacher_names(run.settings)
    read = partial(read_clips, allow_missing=data.allow_missing)
    evaluation, _ = read(data.evaluation), read(data.validation)
    training = [read(*sources) for sources in (data.pretraining, data.training) if sources]
    for note in dict.fromkeys(note for manifest in training for note in manifest.notes):
        say(note)
    leaked = {name for manifest in training for name in leaks(manifest.clips, evaluation.clips)["file_name"]}
    if leaked:
        say(
            f"{len(leaked)} training clips come from recordings of the evaluation set, such as {min(leaked)!r}; "
            "`exclude` takes a list of ids to leave out."
        )


def prepare_caches(settings: RetrievalSettings) -> None:
    """Decode the clips that trainings share, where they are cached."""
    if settings.data.cache is None:
        return
    data = settings.data
    rates = {create_front_end(model.audio.model).sample_rate for model in settings.models.values()}
    for sources in (data.pretraining, data.training, [data.validation], [data.evaluation]):
        for rate in rates if sources else ():
            clips = read_clips(*sources, allow_missing=data.allow_missing)
            CaptionedClips(clips, rate, data, random_part=False)


def load_model(run: TextRun, name: str, stage: str) -> DualEncoder:
    """The best checkpoint of a model, on the GPU where there is one.

    Raises:
        UserError: if the model or its checkpoint is not there.
    """
    if name not in run.settings.models:
        raise unknown("model", name, run.settings.models)
    path = run.checkpoint(f"{stage}_{name}/best.ckpt")
    model = make_model(run.settings.models[name])
    load_checkpoint(model, path)
    return model.to(choose_device(run.settings.trainer)).eval()


def write_similarity(
    path: Path, similarity: Tensor, captions: Sequence[str], names: Sequence[str], made_up: bool = False
) -> None:
    """One .npz: similarity (captions, clips) float32, captions, file_names, made_up."""
    texts = {"captions": np.array(captions), "file_names": np.array(names)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, similarity=similarity.numpy(), made_up=np.array(made_up), **texts)  # type: ignore[arg-type]


def _teacher_names(settings: RetrievalSettings) -> list[str]:
    names = list(settings.correspondences.teachers) or list(settings.models)
    for name in names:
        if name not in settings.models:
            raise unknown("teacher", name, settings.models)
    return list(settings.models) if settings.correspondences.own_teacher_only else names


def last_training(settings: RetrievalSettings) -> str:
    """The last stage that trains the first model."""
    return f"{'contrastive' if settings.distilled is None else 'distilled'}_{next(iter(settings.models))}"


RECIPE = Recipe(
    RetrievalSettings, make_stages, result_row, is_made_up_data, check_inputs, prepare_caches,
    objective=Objective(last_training, MONITOR),
)  # fmt: skip

"""The recipe of the pre-training: targets of the teachers if there are any, training, test."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from common.data.files import is_made_up, write_json
from common.data.keyed_outputs import OutputWriter
from common.data.loading import rank_and_count
from common.models.network import choose_device, uses_gpu
from common.output import Progress, say
from common.runs.energy import measure_energy
from common.runs.folder import is_main_process
from common.runs.recipe import Recipe
from common.runs.run import Run, is_done
from common.runs.stages import Stage
from common.training.checkpoints import load_weights, save_checkpoint
from common.training.memory import refuse_large
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from task4_sed.pretraining.clips import (
    CLASSES,
    KIND,
    SCORED_CLASSES,
    StrongClips,
    StrongSet,
    read_evaluation_set,
    read_training_set,
    scoring_loader,
    training_loader,
)
from task4_sed.pretraining.networks import make_model, refuse_absent_weights, start_from_weights
from task4_sed.pretraining.scoring import FIGURES, EvaluationScores
from task4_sed.pretraining.settings import OfficeSettings, PretrainSettings
from task4_sed.pretraining.tables import FRAMES
from task4_sed.pretraining.train import Batch, FrameTraining, Pretraining, score_batch
from task4_sed.settings import TRAINER, validate_each_epoch

TARGETS = "targets/logits.h5"
WEIGHTS = "train/weights.pt"

FrameSettings = TypeVar("FrameSettings", PretrainSettings, OfficeSettings)
Module = TypeVar("Module", bound=FrameTraining)


def write_targets(run: Run[PretrainSettings], settings: PretrainSettings, fast_check: bool = False) -> None:
    """Write targets/logits.h5: the mean of the teachers' frame logits for every training clip, float16."""
    assert settings.distillation is not None
    run.notes["teachers"] = write_teacher_logits(settings.distillation.teachers, settings, run.folder / TARGETS)


def train_network(run: Run[PretrainSettings], settings: PretrainSettings, fast_check: bool = False) -> None:
    """Train the network.

    Writes train/last.ckpt, metrics.csv, energy.json and weights.pt: the network alone, as `common.registry` loads it.
    """
    data = settings.data
    teachers = None if settings.distillation is None else settings.distillation.targets or run.folder / TARGETS
    clips = StrongClips(_reported(read_training_set(data)), data.long_clips == "random", teachers)
    evaluation, durations = read_evaluation_set(data)
    make_scores = partial(empty_scores, _reported(evaluation), durations, settings)
    loader = training_loader(clips, settings, uses_gpu(settings.trainer))
    test = StrongClips(evaluation)
    validation = scoring_loader(test, len(test), data.scoring_batch, data.num_workers)
    seed_all(settings.seed)
    model = make_model(settings.model, CLASSES)
    start_from_weights(model, settings.model)
    say(f"train: {len(clips):,} training clips, {len(loader):,} batches per epoch; {len(evaluation.events):,} scored")
    fit_network(run, Pretraining(settings, model, make_scores), loader, validation, fast_check)


def fit_network(
    run: Run[FrameSettings], module: FrameTraining, loader: DataLoader, validation: DataLoader, fast_check: bool
) -> None:
    """Train a network; writes last.ckpt, metrics.csv, energy.json and weights.pt in the run's folder train."""
    folder, settings = run.folder / "train", run.settings
    if uses_gpu(settings.trainer):
        clips = -(-settings.data.batch_size // settings.trainer.processes)
        memory = module.estimate_memory(clips, settings.trainer.precision)
        say(f"train: {memory.sentence(clips)}")
        refuse_large(memory, "train", "Halve data.batch_size and double trainer.accumulate, or set 16-mixed precision.")
    trainer = make_trainer(settings.trainer, folder, settings.seed, fast_check=fast_check)
    with measure_energy(folder, settings.trainer):
        fit(trainer, module, loader, validation)
    if is_main_process():
        save_checkpoint(module.network.state_dict(), run.folder / WEIGHTS)


def score_network(run: Run[PretrainSettings], settings: PretrainSettings, fast_check: bool = False) -> None:
    """Score the evaluation clips with the network after the last epoch.

    Processes that trained together score together. Reads train/last.ckpt. Writes test/evaluation.json: `FIGURES` with
    value, per_class and interval; clips.
    """
    if not takes_part_in_scoring():
        return
    evaluation, durations = read_evaluation_set(settings.data)
    module = load_module(run)
    scores = empty_scores(_reported(evaluation), durations, settings)
    clips = StrongClips(evaluation)
    loader = scoring_loader(clips, len(clips), settings.data.scoring_batch, settings.data.num_workers)
    rank = rank_and_count()[0]
    with torch.inference_mode(), Progress("Scoring", len(clips)) as progress:
        for batch in batches_on_device(loader, module, fast_check):
            rows, values = score_batch(module, scores, batch)
            if rank == 0:
                scores.add(rows, values)
            progress.advance(len(rows))
    if rank == 0:
        write_evaluation(run, scores.figures(settings.evaluation.draws))


def takes_part_in_scoring() -> bool:
    """Whether this process trained together with others, or is rank 0."""
    return rank_and_count()[1] > 1 or is_main_process()


def batches_on_device(loader: DataLoader, module: FrameTraining, fast_check: bool) -> Iterator[Batch]:
    """Batches with ``waveform`` and ``row`` on the device of the network; two of them for `fast_check`."""
    for number, batch in enumerate(loader):
        if fast_check and number == 2:
            return
        yield {**batch, **{name: batch[name].to(module.device) for name in ("waveform", "row")}}


def write_evaluation(run: Run[FrameSettings], figures: dict[str, Any]) -> None:
    """Write figures, with seed, model and whether the data are made up, to test/evaluation.json."""
    settings = run.settings
    facts = {"seed": settings.seed, "made_up": is_made_up(settings.data.root), "model": settings.model.name}
    write_json(run.folder / "test" / "evaluation.json", {**facts, **figures})


def write_teacher_logits(teachers: Sequence[Path], settings: PretrainSettings, out: Path) -> list[dict[str, Any]]:
    """Write the mean of the frame logits of finished runs for every training clip of `settings.data`.

    Returns folder, model and PSDS1 of each teacher.
    """
    runs = [RECIPE.open(folder) for folder in teachers]
    facts = [{"run": str(run.folder), "model": run.settings.model.name, **result_row(run)} for run in runs]
    modules = [load_module(run) for run in runs]
    clips = StrongClips(_reported(read_training_set(settings.data)))
    names = clips.clips.events.clips
    loader = scoring_loader(clips, len(clips), settings.data.scoring_batch, settings.data.num_workers)
    with OutputWriter(out, names, (len(CLASSES), FRAMES), KIND) as writer, Progress("Teaching", len(clips)) as progress:
        for batch in loader:
            waveform = batch["waveform"].to(modules[0].device)
            with torch.inference_mode():
                logits = torch.stack([module.detect(waveform) for module in modules]).mean(dim=0).mT
            rows, first = np.unique(batch["row"].numpy(), return_index=True)  # the last batch may be filled up
            writer.write([names[row] for row in rows], logits[torch.from_numpy(first)])
            progress.advance(len(rows))
    return facts


def empty_scores(clips: StrongSet, durations: dict[str, float], settings: PretrainSettings) -> EvaluationScores:
    """Store for the scores of the evaluation clips."""
    return EvaluationScores(
        clips.events, durations, CLASSES, SCORED_CLASSES, settings.evaluation.median_frames, clips.missing
    )


def load_module(run: Run[PretrainSettings]) -> Pretraining:
    """The trained network of a run in evaluation mode, on the GPU if there is one."""
    return load_trained(Pretraining(run.settings, make_model(run.settings.model, CLASSES)), run)


def load_trained(module: Module, run: Run[FrameSettings]) -> Module:
    """The module with the weights after the last epoch of a run, in evaluation mode, on the GPU if there is one."""
    load_weights(module.network, run.checkpoint("train/last.ckpt"), "network.")
    return module.eval().to(choose_device(run.settings.trainer))


def result_row(run: Run[PretrainSettings]) -> dict[str, Any]:
    """The figures of a finished run in one flat row; 0..1."""
    found = run.read_evaluation()
    return {name: found[name]["value"] for name in FIGURES}


def make_stages(settings: PretrainSettings) -> list[Stage]:
    """Targets are only written where teachers are named."""
    teachers = settings.distillation is not None and settings.distillation.teachers
    return [stage for stage in STAGES if teachers or stage.name != "targets"]


def refuse_early(run: Run[PretrainSettings]) -> None:
    """Refuse missing or wrong tables, clips, weights and runs of teachers, unless the run is finished."""
    settings = run.settings
    if is_done(run, "test"):
        return
    read_training_set(settings.data)
    read_evaluation_set(settings.data)
    if not is_done(run, "train"):
        refuse_absent_weights(settings.model)
    if settings.distillation is not None and not is_done(run, "targets"):
        for folder in settings.distillation.teachers:
            RECIPE.open(folder).read_evaluation()


def uses_made_up_data(settings: PretrainSettings | OfficeSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up(settings.data.root)


def _reported(clips: StrongSet) -> StrongSet:
    if clips.missing:
        say(clips.sentence())
    return clips


CLIPS = tuple(f"data.{name}" for name in ("root", "train_audio", "train_table", "allow_missing"))
TRAINING = (*CLIPS, "data.eval_audio", "data.eval_table", "data.long_clips", "data.batch_size", "seed", "model",
            "sampler", "augmentation", "optim", "distillation")  # fmt: skip

STAGES = [
    Stage("targets", write_targets, uses=(*CLIPS, "distillation"), alone=True),
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "evaluation")),
]
RECIPE = Recipe(
    PretrainSettings, make_stages, result_row, uses_made_up_data, refuse_early, for_check=validate_each_epoch
)

"""The recipe of the pre-training: targets of the teachers where there are any, training, test."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.keyed_outputs import OutputWriter
from common.data.loading import rank_and_count
from common.data.made_up import is_made_up
from common.errors import UserError
from common.files import write_json
from common.output import Progress, say
from common.runs.energy import EnergyMeter
from common.runs.folder import is_main_process
from common.runs.stages import Run, Stage, do_two_steps, open_run, read_record, run_stages
from common.training.checkpoints import save_checkpoint, weights_of
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
from task4_sed.pretraining.networks import make_model, start_from_weights
from task4_sed.pretraining.scoring import FIGURES, EvaluationScores
from task4_sed.pretraining.settings import PretrainSettings
from task4_sed.pretraining.targets import FRAMES
from task4_sed.pretraining.train import Pretraining, score_batch

TARGETS = "targets/logits.h5"
WEIGHTS = "train/weights.pt"


def write_targets(run: Run, settings: PretrainSettings, fast_check: bool = False) -> None:
    """Mean of the teachers' frame logits for every training clip.

    Reads the teachers' runs. Writes targets/logits.h5: filenames, strong_logits (clips, 447, 250) float16.
    """
    assert settings.distillation is not None
    run.notes["teachers"] = teacher_logits(settings.distillation.teachers, settings, run.folder / TARGETS)


def train_network(run: Run, settings: PretrainSettings, fast_check: bool = False) -> None:
    """Train the network.

    Writes train/last.ckpt, metrics.csv, energy.json and weights.pt: the network alone, as `common.registry` loads it.
    """
    folder, data = run.folder / "train", settings.data
    clips = StrongClips(_told(read_training_set(data)), data.long_clips == "random", targets_of(run, settings))
    evaluation, durations = read_evaluation_set(data)
    make_scores = partial(scores_of, _told(evaluation), durations, settings)
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    loader = training_loader(clips, settings, use_gpu)
    test = StrongClips(evaluation)
    validation = scoring_loader(test, len(test), data.scoring_batch, data.num_workers)
    seed_all(settings.seed)
    model = make_model(settings.model, CLASSES)
    start_from_weights(model, settings.model)
    module = Pretraining(settings, model, make_scores)
    trainer = make_trainer(settings.trainer, folder, settings.seed, fast_check=fast_check)
    say(f"train: {len(clips):,} training clips, {len(loader):,} batches an epoch; {len(evaluation.events):,} scored")
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, loader, validation)
    if is_main_process():
        save_checkpoint(module.network.state_dict(), run.folder / WEIGHTS)


def score_network(run: Run, settings: PretrainSettings, fast_check: bool = False) -> None:
    """Score the evaluation clips with the network after the last epoch.

    Processes that have trained together score together. Reads train/last.ckpt. Writes test/evaluation.json: `FIGURES`
    with value, per_class and interval; clips.
    """
    rank, world = rank_and_count()
    if world == 1 and not is_main_process():
        return
    evaluation, durations = read_evaluation_set(settings.data)
    module = load_module(run)
    scores = scores_of(_told(evaluation), durations, settings)
    clips = StrongClips(evaluation)
    with torch.inference_mode(), Progress("Scoring", len(clips)) as progress:
        loader = scoring_loader(clips, len(clips), settings.data.scoring_batch, settings.data.num_workers)
        for number, batch in enumerate(loader):
            if fast_check and number == 2:
                break
            moved = {name: batch[name].to(module.device) for name in ("waveform", "row")}
            rows, values = score_batch(module, scores, {**batch, **moved})
            if rank == 0:
                scores.add(rows, values)
            progress.advance(len(rows))
    if rank > 0:
        return
    facts = {"seed": settings.seed, "made_up": is_made_up(settings.data.root), "model": settings.model.name}
    write_json(run.folder / "test" / "evaluation.json", {**facts, **scores.figures(settings.evaluation.draws)})


def targets_of(run: Run, settings: PretrainSettings) -> Path | None:
    """File of the teachers' logits; None without teachers."""
    if settings.distillation is None:
        return None
    return settings.distillation.targets or run.folder / TARGETS


def teacher_logits(teachers: Sequence[Path], settings: PretrainSettings, out: Path) -> list[dict[str, Any]]:
    """Write the mean of the frame logits of finished runs for every training clip of `settings.data`.

    Returns:
        Of each teacher its folder, its model and its PSDS1.

    Raises:
        UserError: if a run is not finished.
    """
    runs = [open_pretraining(folder) for folder in teachers]
    facts = [{"run": str(run.folder), "model": run.settings.model.name, **result_row(run)} for run in runs]
    modules = [load_module(run) for run in runs]
    clips = StrongClips(_told(read_training_set(settings.data)))
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


def scores_of(clips: StrongSet, durations: dict[str, float], settings: PretrainSettings) -> EvaluationScores:
    """What the evaluation clips are scored with, without scores."""
    return EvaluationScores(
        clips.events, durations, CLASSES, SCORED_CLASSES, settings.evaluation.median_frames, clips.missing
    )


def open_pretraining(folder: Path) -> Run:
    """The run of `pretrain` in a folder; see `common.runs.stages.open_run`."""
    return open_run(folder, PretrainSettings)


def load_module(run: Run) -> Pretraining:
    """The trained network of a run in evaluation mode, on the GPU where there is one.

    Raises:
        UserError: if it is not trained yet.
    """
    path = run.folder / "train" / "last.ckpt"
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    module = Pretraining(run.settings, make_model(run.settings.model, CLASSES))
    try:
        module.network.load_state_dict(weights_of(path, "network."))
    except RuntimeError as error:
        raise UserError(f"The weights in {path} are those of another network: {str(error).splitlines()[-1]}") from error
    use_gpu = run.settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return module.eval().to("cuda" if use_gpu else "cpu")


def read_evaluation(run: Run) -> dict[str, Any]:
    """The content of test/evaluation.json.

    Raises:
        UserError: if the run is not finished.
    """
    read_record(run.folder, "test")
    return json.loads((run.folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


def result_row(run: Run) -> dict[str, Any]:
    """The figures of a finished run in one flat row; 0..1."""
    found = read_evaluation(run)
    return {name: found[name]["value"] for name in FIGURES}


def run_recipe(settings: PretrainSettings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
    """
    run = Run(folder or settings.folder, settings)
    run_stages(run, stages_of(settings), redo)
    return run


def check_recipe(settings: PretrainSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    trainer = settings.trainer.model_copy(update={"validate_every": 1})
    settings = settings.model_copy(update={"trainer": trainer})
    do_two_steps(settings, stages_of(settings))


def stages_of(settings: PretrainSettings) -> list[Stage]:
    """The stages of a run: targets are only written where teachers are named."""
    teachers = settings.distillation is not None and settings.distillation.teachers
    return [stage for stage in STAGES if teachers or stage.name != "targets"]


def _told(clips: StrongSet) -> StrongSet:
    if clips.missing:
        say(clips.sentence())
    return clips


CLIPS = tuple(f"data.{name}" for name in ("root", "train_audio", "train_table", "allow_missing"))
TRAINING = (*CLIPS, "data.eval_audio", "data.eval_table", "data.long_clips", "data.batch_size", "seed", "model",
            "sampler", "augmentation", "optim", "distillation")  # fmt: skip
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("targets", write_targets, uses=(*CLIPS, "distillation"), alone=True),
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "evaluation")),
]

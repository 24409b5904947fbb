"""The recipe: two iterations of two stages for every transformer, with pseudo-labels of their ensemble in between.

"Multi-Iteration Multi-Stage Fine-Tuning of Transformers for Sound Event Detection with Heterogeneous Datasets"
(Schmid et al., DCASE 2024; arXiv 2407.12997). `make_stages`, last in the file, is its method section.
"""

from functools import partial
from pathlib import Path
from typing import Any

from common.data.files import compute_sha256
from common.data.loading import make_loader
from common.models.network import uses_gpu
from common.output import say
from common.runs.energy import measure_energy
from common.runs.stages import Run, Stage
from common.training.checkpoints import load_weights
from common.training.trainer import derive_seed, fit, make_trainer, seed_all
from task4_sed.evaluate import test_sets
from task4_sed.iterations.data import (
    STORES,
    PseudoLabels,
    check_inputs,
    open_clips,
    read_clips,
    stores_to_write,
    training_loader,
    training_sets,
)
from task4_sed.iterations.memory import estimate_training, refuse_large
from task4_sed.iterations.scores import find_checkpoint, load_training, test_system, write_scores
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.scores.ensemble import ensemble_stores
from task4_sed.scoring import make_reference


def train_stage(
    run: Run[TwoIterations], settings: TwoIterations, iteration: int, number: int, name: str, fast_check: bool = False
) -> None:
    """Train a student and its teacher; stage 2 starts from stage 1.

    Reads pseudo_labels/*.h5 if their loss has a weight. Writes last.ckpt, best.ckpt, metrics.csv, energy.json.
    """
    stage = settings.stage(name, iteration, number)
    folder = run.folder / f"iteration{iteration}_stage{number}_{name}"
    seed = derive_seed(settings.seed, iteration, number)
    check_inputs(settings)
    training, held_out = training_sets(settings, stage.batch)
    pseudo = pseudo_label_folder(run, settings) if stage.loss.weights.pseudo else None
    use_gpu = uses_gpu(settings.trainer)
    loader = training_loader(settings, stage, training, pseudo, seed, pin_memory=use_gpu)
    validation = [
        make_loader(open_clips(clips, settings), settings.data.scoring_batch, num_workers=settings.data.num_workers)
        for clips in held_out.values()
    ]
    references = [make_reference(clips, settings) for clips in held_out.values()]
    seed_all(seed)
    module = StageTraining(settings, name, iteration, number, references)
    memory = estimate_training(module, settings.trainer.precision)
    say(f"{folder.name}: {memory.sentence(module.rows.count)}")
    refuse_large(memory, use_gpu, folder.name)
    notes: dict[str, Any] = {"clips": {key: len(clips) for key, clips in training.items()}}
    notes |= {"estimated_bytes": memory.total, "processes": settings.processes}
    if number == 2:
        start = find_checkpoint(run, f"iteration{iteration}_stage1_{name}")
        load_weights(module, start)
        notes["started_from"] = {"file": str(start.relative_to(run.folder)), "sha256": compute_sha256(start)}
    else:
        own = settings.transformers[name]
        weights = "untrained" if own.untrained else str(own.weights or own.model)
        notes["started_from"] = {"transformer": weights}
    if pseudo is not None:
        notes["pseudo_labels"] = {key: compute_sha256(pseudo / f"{STORES[key]}.h5") for key in training}
    run.notes |= notes
    shown = ", ".join(f"{count} {key}" for key, count in notes["clips"].items())
    say(f"{folder.name}: {shown}; {len(loader)} batches per epoch, {stage.accumulate} per step")
    trainer_settings = settings.trainer_settings(stage)
    monitor = "val_objective" if validation else None
    trainer = make_trainer(trainer_settings, folder, seed, monitor=monitor, fast_check=fast_check)
    with measure_energy(folder, settings.trainer):
        fit(trainer, module, loader, validation or None)


def score_training_clips(run: Run[TwoIterations], settings: TwoIterations, name: str, fast_check: bool = False) -> None:
    """Write logits of all classes for every clip of every training set, by the first iteration's stage 2.

    One store per set; finished stores are kept.
    """
    folder = run.folder / f"iteration1_scores_{name}"
    with measure_energy(folder, settings.trainer):
        module = load_training(run, name, 1, 2)
        for store, clips in stores_to_write(settings):
            path = folder / f"{store}.h5"
            if not path.is_file():
                write_scores(module, open_clips(clips, settings), path, settings)


def make_pseudo_labels(run: Run[TwoIterations], settings: TwoIterations, fast_check: bool = False) -> None:
    """Write the mean logits of all transformers to pseudo_labels/<set>.h5, in the layout that the winner published.

    Stores that the settings name are only checked.
    """
    folder = run.folder / "pseudo_labels"
    if settings.pseudo_labels.folder is None:
        for store, _ in stores_to_write(settings):
            members = [run.folder / f"iteration1_scores_{name}" / f"{store}.h5" for name in settings.names]
            ensemble_stores(members, folder / f"{store}.h5")
    training, _ = training_sets(settings, settings.stage1.batch)
    for name, clips in training.items():
        PseudoLabels(
            pseudo_label_folder(run, settings) / f"{STORES[name]}.h5", clips.filenames, settings.labels.classes
        )
    run.notes["sha256"] = {
        path.stem: compute_sha256(path) for path in sorted(pseudo_label_folder(run, settings).glob("*.h5"))
    }


def pseudo_label_folder(run: Run[TwoIterations], settings: TwoIterations) -> Path:
    """Folder of the pseudo-labels of a run."""
    return settings.pseudo_labels.folder or run.folder / "pseudo_labels"


def prepare_stores(settings: TwoIterations) -> None:
    """Make the packed stores that trainings share."""
    training, held_out = training_sets(settings, settings.stage1.batch)
    tested = (read_clips(settings, name) for name in test_sets(settings))
    for clips in (*training.values(), *held_out.values(), *tested):
        open_clips(clips, settings)


ALWAYS = ("seed", "data.root", "data.sets", "data.exclude", "data.allow_missing", "labels", "front_end", "crnn",
              "teacher", "validation", "postprocessing.median_frames", "trainer.precision", "trainer.validate_every",
              "stage1")  # fmt: skip
PER_TRANSFORMER = ("model", "weights", "untrained", "options", "projection", "aggregation", "stage1")


def used_settings(name: str, iteration: int, number: int) -> tuple[str, ...]:
    """Settings that decide the result of a training."""
    own = list(PER_TRANSFORMER)
    uses = list(ALWAYS)
    if iteration == 2:
        uses += ["pseudo_labels", "stage1_distilled"]
        own.append("stage1_distilled")
    if number == 2:
        uses.append("stage2")
        own.append("stage2")
    return (*uses, *(f"transformers.{name}.{key}" for key in own))


def make_trainings(iteration: int, name: str, needs: tuple[str, ...]) -> list[Stage]:
    """Stage 1 and stage 2 of a transformer."""
    return [
        Stage(
            f"iteration{iteration}_stage{number}_{name}",
            partial(train_stage, iteration=iteration, number=number, name=name),
            uses=used_settings(name, iteration, number),
            needs=needs if number == 1 else (f"iteration{iteration}_stage1_{name}",),
        )
        for number in (1, 2)
    ]


def make_stages(settings: TwoIterations) -> list[Stage]:
    """The method; trainings of different transformers do not depend on each other and can run at the same time."""
    teachers = settings.names if 1 in settings.iterations else []
    stages: list[Stage] = []
    for name in teachers:
        stages += make_trainings(1, name, needs=())
        stages.append(
            Stage(
                f"iteration1_scores_{name}",
                partial(score_training_clips, name=name),
                uses=(*used_settings(name, 1, 2), "postprocessing.network"),
                needs=(f"iteration1_stage2_{name}",),
                alone=True,
            )
        )
    stages.append(
        Stage(
            "pseudo_labels",
            make_pseudo_labels,
            uses=("members", "pseudo_labels", "data.root", "data.sets", "data.exclude", "labels.classes"),
            needs=tuple(f"iteration1_scores_{name}" for name in teachers),
            alone=True,
        )
    )
    for name in settings.names:
        stages += make_trainings(2, name, needs=("pseudo_labels",))
    every = dict.fromkeys(key for name in settings.names for key in used_settings(name, 2, 2))
    stages.append(Stage("test", test_system, uses=(*every, "members", "postprocessing"), alone=True))
    return stages

"""The recipe: two iterations of two stages for every transformer, with pseudo-labels of their ensemble in between.

"Multi-Iteration Multi-Stage Fine-Tuning of Transformers for Sound Event Detection with Heterogeneous Datasets"
(Schmid et al., DCASE 2024; arXiv 2407.12997). `make_stages`, last in the file, is its method section.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.data.files import compute_sha256
from common.data.loading import make_loader
from common.inference.complexity import measure
from common.models.network import choose_device, uses_gpu
from common.output import say
from common.runs.energy import measure_energy
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.checkpoints import load_weights
from common.training.seeds import derive_seed, seed_all
from task4_sed.data.clips import SoundEventClips
from task4_sed.evaluate import test_sets, write_evaluation
from task4_sed.iterations.data import (
    STORES,
    DistilledClips,
    PseudoLabels,
    check_inputs,
    read_clips,
    stores_to_write,
    training_loader,
    training_sets,
)
from task4_sed.iterations.network import StageDetector
from task4_sed.iterations.settings import TwoIterations
from task4_sed.labels import CLIP_SAMPLES
from task4_sed.mean_teacher.detector import write_logits
from task4_sed.scores.store import ensemble_stores
from task4_sed.scoring import make_reference


def train_stage(
    run: Run[TwoIterations], settings: TwoIterations, iteration: int, number: int, name: str, fast_check: bool = False
) -> None:
    """Train a student and its teacher; stage 2 starts from stage 1.

    Reads pseudo_labels/*.h5 if their loss has a weight. Writes last.ckpt, best.ckpt, metrics.csv, energy.json.
    """
    from common.training.memory import refuse_large
    from common.training.trainer import fit, make_trainer
    from task4_sed.iterations.memory import ADVICE, estimate_training
    from task4_sed.iterations.train import StageTraining

    stage = settings.stage(name, iteration, number)
    folder = run.folder / f"iteration{iteration}_stage{number}_{name}"
    seed = derive_seed(settings.seed, iteration, number)
    check_inputs(settings)
    training, held_out = training_sets(settings, stage.batch)
    pseudo = pseudo_label_folder(run, settings) if stage.loss.weights.pseudo else None
    use_gpu = uses_gpu(settings.trainer)
    loader = training_loader(settings, stage, training, pseudo, seed, pin_memory=use_gpu)
    data, scored = settings.data, [DistilledClips(clips, settings) for clips in held_out.values()]
    validation = [
        make_loader(clips, data.scoring_batch, num_workers=data.num_workers, pin_memory=use_gpu) for clips in scored
    ]
    references = [make_reference(clips, settings) for clips in held_out.values()]
    seed_all(seed)
    module = StageTraining(settings, name, iteration, number, references)
    memory = estimate_training(module, settings.trainer.precision)
    say(f"{folder.name}: {memory.sentence(module.rows.count)}")
    if use_gpu:
        refuse_large(memory, folder.name, ADVICE)
    notes: dict[str, Any] = {"clips": {key: len(clips) for key, clips in training.items()}}
    notes |= {"estimated_bytes": memory.total, "processes": settings.trainer.processes}
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
                write_scores(module, DistilledClips(clips, settings), path, settings)


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
    folder = pseudo_label_folder(run, settings)
    for name, clips in training.items():
        PseudoLabels(folder / f"{STORES[name]}.h5", clips.filenames, settings.labels.classes)
    run.notes["sha256"] = {path.stem: compute_sha256(path) for path in sorted(folder.glob("*.h5"))}


def pseudo_label_folder(run: Run[TwoIterations], settings: TwoIterations) -> Path:
    """Folder of the pseudo-labels of a run."""
    return settings.pseudo_labels.folder or run.folder / "pseudo_labels"


def load_training(run: Run[TwoIterations], name: str, iteration: int, number: int) -> StageDetector:
    """Student and teacher of a finished training in evaluation mode, on the GPU if there is one."""
    module = StageDetector(run.settings, name, run.settings.stage(name, iteration, number), released=False)
    load_weights(module, find_checkpoint(run, f"iteration{iteration}_stage{number}_{name}"))
    return module.eval().to(choose_device(run.settings.trainer))


def find_checkpoint(run: Run[TwoIterations], stage: str) -> Path:
    """best.ckpt where clips were held out, else last.ckpt."""
    return run.checkpoint(f"{stage}/best.ckpt", f"{stage}/last.ckpt")


def write_scores(module: StageDetector, clips: SoundEventClips, path: Path, settings: TwoIterations) -> None:
    """Write the logits of clips, of all classes, by the network that the settings choose."""
    loader = make_loader(clips, settings.data.scoring_batch, num_workers=settings.data.num_workers)
    write_logits(module, loader, {settings.postprocessing.network: path}, settings.labels.classes)


def test_system(run: Run[TwoIterations], settings: TwoIterations, fast_check: bool = False) -> None:
    """Score the test sets with every training and with the ensemble of each stage, raw and post-processed.

    Writes test/scores/<set>_<training>.h5 (raw logits), test/evaluation.json, with event boxes test/boxes.json, and the
    energy of the inference of the submitted system, test/energy.json.
    """
    folder = run.folder / "test"
    sets = {name: read_clips(settings, name, everything=True) for name in test_sets(settings)}
    opened = {name: DistilledClips(clips, settings) for name, clips in sets.items()}
    with measure_energy(folder, settings.trainer):
        _score_members(run, 2, 2, submitted_names(settings), opened, folder / "scores")
    for iteration in settings.iterations:
        for number in (1, 2):
            _score_members(run, iteration, number, settings.names, opened, folder / "scores")
    missing = {name: len(clips.missing) for name, clips in sets.items()}
    write_evaluation(folder, settings, system_names(settings), missing)


def system_names(settings: TwoIterations) -> list[str]:
    """Every training, and the ensemble of each stage, in their order."""
    stages = [f"iteration{iteration}_stage{number}" for iteration in settings.iterations for number in (1, 2)]
    members = [*settings.names, "ensemble"] if len(settings.names) > 1 else settings.names
    return [f"{stage}_{member}" for stage in stages for member in members]


def predict_logits(run: Run[TwoIterations], clips: SoundEventClips, path: Path) -> None:
    """Write the logits of clips by the submitted system: the ensemble of the last stage, or one of its members."""
    names = submitted_names(run.settings)
    stores = [path.with_name(f"{path.stem}_{name}.h5") for name in names]
    for name, store in zip(names, stores):
        write_scores(load_training(run, name, 2, 2), clips, store, run.settings)
    ensemble_stores(stores, path)


def complexity_figures(settings: TwoIterations) -> dict[str, Any]:
    """Parameters and MACs for 10 s, transformers included; the sum over an ensemble."""
    figures: dict[str, Any] = {"total_parameters": 0, "macs": 0}
    silence = torch.zeros(1, CLIP_SAMPLES)
    for name in submitted_names(settings):
        module = StageDetector(settings, name, settings.stage(name, 2, 2), released=False)
        reads = {"log_mel": tuple(module.transformer_front_end(silence).shape[1:])}
        counted = measure(module.student, module.front_end(silence).shape, also_reads=reads)
        figures["total_parameters"] += counted.parameters
        figures["macs"] += counted.all_calls["total"]
    return figures


def submitted_names(settings: TwoIterations) -> list[str]:
    """Transformers of the submitted system."""
    system = settings.network.removeprefix("iteration2_stage2_")
    return settings.names if system == "ensemble" else [system]


def _score_members(
    run: Run[TwoIterations], iteration: int, number: int, names: Sequence[str],
    opened: Mapping[str, SoundEventClips], folder: Path,
) -> None:  # fmt: skip
    """Write missing stores of the test sets, by some trainings of a stage and, if these are all, their ensemble."""
    stage = f"iteration{iteration}_stage{number}"
    for name in names:
        wanted = {test: folder / f"{test}_{stage}_{name}.h5" for test in opened}
        missing = {test: path for test, path in wanted.items() if not path.is_file()}
        if missing:
            module = load_training(run, name, iteration, number)
            for test, path in missing.items():
                write_scores(module, opened[test], path, run.settings)
    if len(names) == len(run.settings.names) > 1:
        for test in opened:
            path = folder / f"{test}_{stage}_ensemble.h5"
            if not path.is_file():
                ensemble_stores([folder / f"{test}_{stage}_{name}.h5" for name in names], path)


def prepare_stores(settings: TwoIterations) -> None:
    """Make the packed stores that trainings share."""
    training, held_out = training_sets(settings, settings.stage1.batch)
    tested = (read_clips(settings, name) for name in test_sets(settings))
    for clips in (*training.values(), *held_out.values(), *tested):
        DistilledClips(clips, settings)


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
        uses = (*used_settings(name, 1, 2), "postprocessing.network")
        work = partial(score_training_clips, name=name)
        stages.append(Stage(f"iteration1_scores_{name}", work, uses, (f"iteration1_stage2_{name}",), alone=True))
    uses = ("members", "pseudo_labels", "data.root", "data.sets", "data.exclude", "labels.classes")
    needs = tuple(f"iteration1_scores_{name}" for name in teachers)
    stages.append(Stage("pseudo_labels", make_pseudo_labels, uses, needs, alone=True))
    for name in settings.names:
        stages += make_trainings(2, name, needs=("pseudo_labels",))
    every = dict.fromkeys(key for name in settings.names for key in used_settings(name, 2, 2))
    stages.append(Stage("test", test_system, uses=(*every, "members", "postprocessing"), alone=True))
    return stages

"""The recipe of Task 1, stage by stage; which of them a run has, its settings say.

teachers   networks of any size learn the subset's clips         (distillation)
logits     what they say about these clips, averaged             (distillation)
train      the network learns labels, and teachers' logits where there are some
devices    a copy for each recording device is trained on        (device_tuning)
quantize   all of these networks in 8 bit                        (quantization)
test       figures on the test split, in each precision
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.loading import make_loader
from common.inference.quantize import convert, prepare_training, quantize_trained
from common.models.audio_model import AudioModel
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.folder import is_main_process
from common.runs.stages import Run, Stage, do_two_steps, run_stages
from common.training.checkpoints import save_checkpoint
from common.training.seeds import derive_seed, seed_all
from common.training.trainer import fit, make_trainer
from task1_asc.data.tau2022 import CLASSES, TRAINING_DEVICES, is_made_up_data, store_folder
from task1_asc.data.teacher_logits import LOGITS, write_logits, write_seen
from task1_asc.data.training_clips import TrainingClips, loading, read_training_clips
from task1_asc.evaluate import read_scores, score_network
from task1_asc.networks.build import KEPT_FLOAT, input_shape, make_teacher
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.networks.limits import refuse_over_limits
from task1_asc.networks.teachers import each_teacher, load_teacher, teacher_settings
from task1_asc.networks.trained import device_of, load_run_model, load_run_networks
from task1_asc.settings import RampOptimSettings, Task1Settings
from task1_asc.train import QuantizedSceneTraining, SceneTraining


def train_teachers(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train each teacher on the clips that the student will be trained on.

    Writes teachers/<name>_<number>/ with last.ckpt, with held-out clips best.ckpt, metrics.csv, and seen.tsv, the clips
    that it was trained on or chosen by.
    """
    refuse_over_limits(settings)
    clips = read_training_clips(settings, fast_check)
    with energy_of(run, settings, "teachers"):
        for name, number, teacher in each_teacher(settings):
            folder = run.folder / "teachers" / name
            own = teacher_settings(settings, teacher, number)
            seed_all(own.seed)
            module = SceneTraining(own, clips.sample_rate, make_teacher(teacher, clips.sample_rate, settings.subset))
            say(f"teacher {name}: {len(clips.train)} clips of subset {settings.subset}")
            learn(module, own, clips, folder, fast_check)
            write_seen(folder, clips.filenames)


@torch.inference_mode()
def average_teachers(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Mean of the teachers' logits for every clip that the student learns from, as the clip was recorded.

    Reads teachers/*. Writes logits/logits.h5, by file name; refused if a teacher has seen a clip outside the subset.
    """
    assert settings.distillation is not None
    clips = read_training_clips(settings, fast_check)
    loader = make_loader(clips.open(clips.train), **loading(settings))
    folders = {name: run.folder / "teachers" / name for name, _, _ in each_teacher(settings)}
    total, filenames = None, []
    for name, number, teacher in each_teacher(settings):
        model = load_teacher(folders[name], teacher_settings(settings, teacher, number), teacher, clips.sample_rate)
        networks = {"teacher": DeviceNetworks(model.network)}
        logits, filenames = classify_with(model.front_end, networks, loader, device=device_of(settings))
        own = logits["teacher"].astype(np.float64)
        total = own if total is None else total + own
    assert total is not None
    mean = total / len(folders)
    dtype = settings.distillation.dtype
    write_logits(run.folder / "logits", settings.subset, settings.data.root, filenames, mean, folders, dtype)


def train_network(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train the network on the subset's clips, with the teachers' logits where there are some.

    Reads logits/logits.h5. Writes train/last.ckpt, with held-out clips also train/best.ckpt, metrics.csv, energy.json.
    """
    refuse_over_limits(settings)
    clips = read_training_clips(settings, fast_check, logits_of(run, settings))
    held_out = 0 if clips.held_out is None else len(clips.held_out)
    say(f"train: {len(clips.train)} clips of subset {settings.subset}, {held_out} held out")
    seed_all(settings.seed)
    module = SceneTraining(settings, clips.sample_rate)
    with energy_of(run, settings, "train"):
        learn(module, settings, clips, run.folder / "train", fast_check)


def tune_devices(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train a copy of the network on with the clips of each recording device; the last epoch is used, as published.

    Reads train/. Writes devices/<device>/last.ckpt.
    """
    tuning = settings.device_tuning
    assert tuning is not None
    clips = read_training_clips(settings, fast_check)
    with energy_of(run, settings, "devices"):
        for number, device in enumerate(TRAINING_DEVICES):
            own_clips = clips.of_device(device)
            if not len(own_clips.train):
                say(f"devices: the subset has no clip of {device}; its clips go to the general network")
                continue
            own = settings.model_copy(
                update={
                    "seed": derive_seed(settings.seed, 1 + number),
                    "augment": tuning.augment,
                    "optim": tuning.optim.model_copy(update={"average_decay": None}),
                    "loader": settings.loader.model_copy(update={"batch_size": tuning.batch_size}),
                    "trainer": settings.trainer.model_copy(update={"epochs": tuning.epochs}),
                }
            )
            module = SceneTraining(own, clips.sample_rate, load_run_model(run, clips.sample_rate))
            say(f"device {device}: {len(own_clips.train)} clips")
            learn(module, own, own_clips, run.folder / "devices" / device, fast_check)


def quantize_networks(run: Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Put the network, and its copies for devices, into 8 bit; see `common.inference.quantize`.

    Reads train/, devices/*. Writes quantize/<general or device>.ckpt.
    """
    assert settings.quantization is not None
    clips = read_training_clips(settings, fast_check, logits_of(run, settings))
    front_end, networks = load_run_networks(run, clips.sample_rate)
    with energy_of(run, settings, "quantize"):
        for name in ("general", *networks.device_models):
            own_clips = clips if name == "general" else clips.of_device(name)
            network = networks.model_for(name)
            if settings.quantization.training is None:
                quantized = quantize_trained(network, calibration(own_clips, settings, front_end), KEPT_FLOAT)
            else:
                quantized = train_quantized(run, settings, name, own_clips, front_end, network, fast_check)
            if is_main_process():
                save_checkpoint({"state_dict": quantized.state_dict()}, run.folder / "quantize" / f"{name}.ckpt")


def train_quantized(
    run: Run,
    settings: Task1Settings,
    name: str,
    clips: TrainingClips,
    front_end: torch.nn.Module,
    network: torch.nn.Module,
    fast_check: bool,
) -> Any:
    """Train a network on with simulated 8 bit, and convert it; the last epoch is used, as published."""
    assert settings.quantization is not None and settings.quantization.training is not None
    training = settings.quantization.training
    prepared = prepare_training(network.cpu(), input_shape(settings, clips.sample_rate), KEPT_FLOAT)
    optim = RampOptimSettings(
        lr=training.lr,
        weight_decay=settings.optim.weight_decay,
        decay="l2",
        rise_epochs=0,
        fall_from=training.fall_from,
        fall_epochs=training.fall_epochs,
        floor=training.floor,
    )
    trainer = settings.trainer.model_copy(update={"epochs": training.epochs, "precision": "32-true"})
    own = settings.model_copy(update={"optim": optim, "trainer": trainer})
    model = AudioModel(front_end, prepared, CLASSES, name=settings.model.name)
    module = QuantizedSceneTraining(own, clips.sample_rate, model, training.frozen_epochs)
    learn(module, own, clips.without_held_out(), run.folder / "quantize" / f"{name}_training", fast_check)
    return convert(module.network)


def calibration(clips: TrainingClips, settings: Task1Settings, front_end: torch.nn.Module) -> Any:
    """Batches of spectrograms of some training clips, chosen by the seed."""
    assert settings.quantization is not None
    device = device_of(settings)
    chosen = clips.some(settings.quantization.calibration_clips, settings.seed)
    for batch in make_loader(clips.open(chosen), **loading(settings)):
        yield front_end(batch["waveform"].to(device))


def learn(module: SceneTraining, settings: Task1Settings, clips: TrainingClips, folder: Path, fast_check: bool) -> None:
    """Train a module, going on from last.ckpt where there is one; best.ckpt is kept where clips are held out."""
    loaders: list[Any] = [make_loader(clips.with_logits(), shuffle_seed=settings.seed, **loading(settings))]
    if clips.held_out is not None:
        loaders.append(make_loader(clips.open(clips.held_out), **loading(settings)))
    monitor = None if clips.held_out is None else "val_macro_accuracy"
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    fit(trainer, module, *loaders)


def energy_of(run: Run, settings: Task1Settings, stage: str) -> EnergyMeter:
    """Measures a stage, where the settings say so."""
    folder = run.folder / stage if settings.trainer.measure_energy else None
    return EnergyMeter(folder, settings.trainer.country)


def logits_of(run: Run, settings: Task1Settings) -> Path | None:
    """The teachers' logits that the network learns from: its own, another run's, or none."""
    if settings.distillation is None:
        return None
    return settings.distillation.logits or run.folder / "logits" / LOGITS


def run_recipe(settings: Task1Settings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run.

    Args:
        settings: of the run.
        folder: of the run; None takes the one that the settings name.
        redo: stages to do again.
    """
    run = Run(folder or settings.folder, settings)
    run_stages(run, stages_of(settings), redo)
    return run


def check_recipe(settings: Task1Settings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    store = store_folder(settings.data.root, settings.data.sample_rate) / "store.json"
    data = settings.data.model_copy(update={"packed": settings.data.packed and store.is_file()})
    settings = settings.model_copy(update={"data": data})
    do_two_steps(settings, stages_of(settings))


def result_row(run: Run) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; accuracies 0..1."""
    scores = read_scores(run)
    single = scores["float32"]
    row = {
        "macro_accuracy": single["macro_accuracy"]["value"],
        "macro_accuracy_low": single["macro_accuracy"]["low"],
        "macro_accuracy_high": single["macro_accuracy"]["high"],
        "macro_accuracy_float16": scores["float16"]["macro_accuracy"]["value"],
        "accuracy": single["accuracy"]["value"],
        "log_loss": single["log_loss"]["value"],
    }
    row |= {f"accuracy_{name}": figures["accuracy"] for name, figures in single["groups"].items()}
    if "int8" in scores:
        row["macro_accuracy_int8"] = scores["int8"]["macro_accuracy"]["value"]
    if "general" in scores:
        row["macro_accuracy_general"] = scores["general"]["float32"]["macro_accuracy"]["value"]
    return row


def sweep_cell(settings: Task1Settings) -> dict[str, Any]:
    """One cell of a sweep: the run that the settings name, and its figures."""
    return result_row(run_recipe(settings))


def is_made_up(settings: Task1Settings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up_data(settings.data.root)


SAME_CLIPS = ("subset", "seed", "data")
TRAINING = (*SAME_CLIPS, "loader.batch_size", "front_end", "model", "augment", "optim")
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER), alone=True),
]


def stages_of(settings: Task1Settings) -> list[Stage]:
    """The stages that a run of these settings has, in their order."""
    learned: tuple[str, ...] = (*TRAINING, *TRAINER)
    stages = []
    if settings.distillation is not None:
        learned = (*learned, "distillation")
        if settings.distillation.teachers:
            stages += [
                Stage("teachers", train_teachers, uses=(*SAME_CLIPS, "distillation.teachers")),
                Stage(
                    "logits",
                    average_teachers,
                    uses=(*SAME_CLIPS, "distillation.teachers", "distillation.dtype"),
                    alone=True,
                ),
            ]
    stages.append(Stage("train", train_network, uses=learned))
    if settings.device_tuning is not None:
        learned = (*learned, "device_tuning")
        stages.append(Stage("devices", tune_devices, uses=learned))
    if settings.quantization is not None:
        learned = (*learned, "quantization")
        alone = settings.quantization.training is None
        stages.append(Stage("quantize", quantize_networks, uses=learned, alone=alone))
    return [*stages, Stage("test", score_network, uses=learned, alone=True)]

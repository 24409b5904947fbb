"""The recipe of Task 1, stage by stage; the settings decide which of them a run has.

teachers   networks of any size train on the subset's clips         (distillation)
logits     mean of their logits for these clips                     (distillation)
train      the network trains on labels, and on the teachers' logits where there are some
devices    a copy for each recording device trains further          (device_tuning)
quantize   all of these networks in 8 bit                           (quantization)
test       figures on the test split, in each precision
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.features.front_ends import FrontEnd
from common.models.audio_model import AudioModel
from common.models.network import choose_device
from common.output import say
from common.runs.energy import measure_energy
from common.runs.folder import is_main_process
from common.runs.recipe import Objective, Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.checkpoints import save_checkpoint
from common.training.seeds import derive_seed, seed_all
from task1_asc.data.clips import (
    TrainingClips,
    open_development,
    pack_data,
    read_training_clips,
    scene_loader,
    store_folder,
)
from task1_asc.data.tau2022 import CLASSES, TRAINING_DEVICES, check_inputs, is_made_up_data
from task1_asc.evaluate import score_network
from task1_asc.networks.build import KEPT_FLOAT, input_shape, load_run_model, load_run_networks
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.settings import QuantizedTrainingSettings, RampOptimSettings, Task1Settings

if TYPE_CHECKING:  # imported where a stage trains: Lightning takes seconds
    from task1_asc.train import SceneTraining

Task1Run = Run[Task1Settings]


def train_teachers(run: Task1Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train each teacher on the training clips of the student.

    Writes teachers/<name>_<number>/ with last.ckpt, with held-out clips best.ckpt, metrics.csv, and seen.tsv, the clips
    used for training or model selection.
    """
    from task1_asc.data.teacher_logits import write_seen
    from task1_asc.networks.teachers import each_teacher, make_teacher, teacher_settings

    refuse_over_limits(settings)
    clips = read_training_clips(settings, fast_check)
    from task1_asc.train import SceneTraining

    with measure_energy(run.folder / "teachers", settings.trainer):
        for name, number, teacher in each_teacher(settings):
            folder = run.folder / "teachers" / name
            own = teacher_settings(settings, teacher, number)
            seed_all(own.seed)
            module = SceneTraining(own, clips.sample_rate, make_teacher(teacher, clips.sample_rate, settings.subset))
            say(f"teacher {name}: {len(clips.train)} clips of subset {settings.subset}")
            learn(module, own, clips, folder, fast_check)
            write_seen(folder, clips.filenames)


@torch.inference_mode()
def average_teachers(run: Task1Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Mean of the teachers' logits for every training clip of the student, as the clip was recorded.

    Reads teachers/*. Writes logits/logits.h5, by file name; refused if a teacher has seen a clip outside the subset.
    """
    from task1_asc.data.teacher_logits import write_logits
    from task1_asc.networks.teachers import each_teacher, load_teacher, teacher_settings

    assert settings.distillation is not None
    clips = read_training_clips(settings, fast_check)
    loader = scene_loader(settings, open_development(settings, clips.train))
    folders = {name: run.folder / "teachers" / name for name, _, _ in each_teacher(settings)}
    total, filenames = np.zeros((len(clips.train), len(CLASSES))), list[str]()
    for name, number, teacher in each_teacher(settings):
        model = load_teacher(run, name, teacher_settings(settings, teacher, number), teacher, clips.sample_rate)
        networks = {"teacher": DeviceNetworks(model.network)}
        logits, filenames = classify_with(model.front_end, networks, loader, device=choose_device(settings.trainer))
        total += logits["teacher"]
    mean, dtype = total / len(folders), settings.distillation.dtype
    write_logits(run.folder / "logits", settings.subset, settings.data.root, filenames, mean, folders, dtype)


def train_network(run: Task1Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train the network on the subset's clips, with the teachers' logits where there are some.

    Reads logits/logits.h5. Writes train/last.ckpt, with held-out clips also train/best.ckpt, metrics.csv, energy.json.
    """
    refuse_over_limits(settings)
    clips = read_training_clips(settings, fast_check, logits_file(run))
    from task1_asc.train import SceneTraining  # Lightning is imported when nothing is missing

    held_out = 0 if clips.held_out is None else len(clips.held_out)
    say(f"train: {len(clips.train)} clips of subset {settings.subset}, {held_out} held out")
    seed_all(settings.seed)
    module = SceneTraining(settings, clips.sample_rate)
    with measure_energy(run.folder / "train", settings.trainer):
        learn(module, settings, clips, run.folder / "train", fast_check)


def tune_devices(run: Task1Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Train a copy of the network further on the clips of each recording device; the last epoch is used, as published.

    Reads train/. Writes devices/<device>/last.ckpt.
    """
    from task1_asc.train import SceneTraining

    tuning = settings.device_tuning
    assert tuning is not None
    clips = read_training_clips(settings, fast_check)
    with measure_energy(run.folder / "devices", settings.trainer):
        for number, device in enumerate(TRAINING_DEVICES):
            own_clips = clips.for_device(device)
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


def quantize_networks(run: Task1Run, settings: Task1Settings, fast_check: bool = False) -> None:
    """Quantize the network, and its copies for devices, to 8 bit; see `common.inference.quantize`.

    Reads train/, devices/*. Writes quantize/<general or device>.ckpt.
    """
    from common.inference.quantize import quantize_trained

    assert settings.quantization is not None
    clips = read_training_clips(settings, fast_check, logits_file(run))
    front_end, networks = load_run_networks(run, clips.sample_rate)
    with measure_energy(run.folder / "quantize", settings.trainer):
        for name in ("general", *networks.device_models):
            own_clips = clips if name == "general" else clips.for_device(name)
            network = networks.model_for(name)
            quantized: nn.Module
            if settings.quantization.training is None:
                quantized = quantize_trained(network, calibration_batches(own_clips, front_end), KEPT_FLOAT)
            else:
                folder = run.folder / "quantize" / f"{name}_training"
                quantized = train_quantized(folder, own_clips, front_end, network, fast_check)
            if is_main_process():
                save_checkpoint({"state_dict": quantized.state_dict()}, run.folder / "quantize" / f"{name}.ckpt")


def train_quantized(
    folder: Path, clips: TrainingClips, front_end: FrontEnd, network: nn.Module, fast_check: bool
) -> nn.Module:
    """Train a network further with simulated 8 bit, and convert it; the last epoch is used, as published."""
    from common.inference.quantize import convert, prepare_training
    from task1_asc.train import QuantizedSceneTraining

    own, training = further_settings(clips.settings)
    prepared = prepare_training(network.cpu(), input_shape(own, clips.sample_rate), KEPT_FLOAT)
    model = AudioModel(front_end, prepared, CLASSES, name=own.model.name)
    module = QuantizedSceneTraining(own, clips.sample_rate, model, training.frozen_epochs)
    learn(module, own, clips.without_held_out(), folder, fast_check)
    return convert(module.network)


def further_settings(settings: Task1Settings) -> tuple[Task1Settings, QuantizedTrainingSettings]:
    """Settings of the further training with simulated 8 bit: the run's with another optimiser and length."""
    assert settings.quantization is not None and settings.quantization.training is not None
    training = settings.quantization.training
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
    return settings.model_copy(update={"optim": optim, "trainer": trainer}), training


def calibration_batches(clips: TrainingClips, front_end: nn.Module) -> Iterator[Tensor]:
    """Batches of spectrograms of some training clips, selected by the seed."""
    settings = clips.settings
    assert settings.quantization is not None
    chosen = clips.some(settings.quantization.calibration_clips, settings.seed)
    for batch in scene_loader(settings, open_development(settings, chosen)):
        yield front_end(batch["waveform"].to(choose_device(settings.trainer)))


def learn(
    module: "SceneTraining", settings: Task1Settings, clips: TrainingClips, folder: Path, fast_check: bool
) -> None:
    """Train a module, or resume from its last.ckpt; best.ckpt is kept where clips are held out."""
    from common.training.trainer import fit, make_trainer

    loaders = [clips.training_loader(settings)]
    if clips.held_out is not None:
        loaders.append(scene_loader(settings, open_development(settings, clips.held_out)))
    monitor = None if clips.held_out is None else "val_macro_accuracy"
    trainer = make_trainer(settings.trainer, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    fit(trainer, module, *loaders)


def logits_file(run: Task1Run) -> Path | None:
    """The teachers' logits that the network trains on: from this run, from another run, or none."""
    if run.settings.distillation is None:
        return None
    return run.settings.distillation.logits or run.folder / "logits" / "logits.h5"


def refuse_over_limits(settings: Task1Settings) -> None:
    """Refuse to train a network over the limits of the settings; see `task1_asc.networks.limits`."""
    if settings.limits is not None:
        from task1_asc.networks.limits import refuse_over

        refuse_over(settings, settings.limits)


def make_stages(settings: Task1Settings) -> list[Stage]:
    """The stages of a run with these settings, in their order."""
    clips = ("subset", "seed", "data")
    trainer = ("epochs", "precision", "gradient_clip", "accumulate", "validate_every")
    learned: tuple[str, ...] = (*clips, "loader.batch_size", "front_end", "model", "augment", "optim")
    learned += tuple(f"trainer.{name}" for name in trainer)
    if settings.loader.shuffle_block is not None:
        learned += ("loader.shuffle_block",)
    stages = []
    if settings.distillation is not None:
        learned += ("distillation",)
        if settings.distillation.teachers:
            taught = (*clips, "distillation.teachers")
            stages.append(Stage("teachers", train_teachers, uses=taught))
            stages.append(Stage("logits", average_teachers, uses=(*taught, "distillation.dtype"), alone=True))
    stages.append(Stage("train", train_network, uses=learned))
    if settings.device_tuning is not None:
        learned += ("device_tuning",)
        stages.append(Stage("devices", tune_devices, uses=learned))
    if settings.quantization is not None:
        learned += ("quantization",)
        alone = settings.quantization.training is None
        stages.append(Stage("quantize", quantize_networks, uses=learned, alone=alone))
    return [*stages, Stage("test", score_network, uses=learned, alone=True)]


def result_row(run: Task1Run) -> dict[str, Any]:
    """The figures of a finished run in one flat row, for the table of a sweep; accuracies 0..1."""
    scores = run.read_evaluation()
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


def refuse_early(run: Task1Run) -> None:
    """Look for the lists and folders of a run."""
    check_inputs(run.settings)


def is_made_up(settings: Task1Settings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up_data(settings.data.root)


def pack_store(settings: Task1Settings) -> None:
    """Make the packed store that runs share, if it is absent."""
    if settings.data.packed:
        pack_data(settings.data.root, settings.data.sample_rate)


def read_wavs_unless_packed(settings: Task1Settings) -> Task1Settings:
    """Settings for two steps: a store that is absent is not worth making."""
    store = store_folder(settings.data.root, settings.data.sample_rate) / "store.json"
    data = settings.data.model_copy(update={"packed": settings.data.packed and store.is_file()})
    return settings.model_copy(update={"data": data})


def trained_stage(settings: Task1Settings) -> str:
    """The stage with the network's validation."""
    return "train"


def refuse_without_validation(settings: Task1Settings) -> None:
    """A search needs held-out clips: the test split must not choose settings."""
    if settings.data.validation is None:
        raise UserError("data.validation is null; a search needs held-out clips: give --data.validation.share 0.2.")


RECIPE = Recipe(
    Task1Settings,
    make_stages,
    result_row,
    is_made_up,
    refuse_early,
    prepare=pack_store,
    for_check=read_wavs_unless_packed,
    objective=Objective(trained_stage, "val_macro_accuracy", refuse_without_validation),
)

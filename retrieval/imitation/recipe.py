"""Recipe of query by vocal imitation: one training and its test."""

from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from common.data.files import is_made_up, write_json
from common.models.network import choose_device
from common.runs.energy import measure_energy
from common.runs.recipe import Recipe
from common.runs.run import Run
from common.runs.stages import Stage
from common.training.checkpoints import load_weights
from common.training.seeds import seed_all
from retrieval.evaluate import TIE_RULE, as_json
from retrieval.imitation.data import coarse_search, read_search, read_training
from retrieval.imitation.evaluate import score_search
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import MONITOR, ImitationSettings
from retrieval.model import make_audio_encoder
from retrieval.recipe import result_row

VoiceRun = Run[ImitationSettings]


def train_encoders(run: VoiceRun, settings: ImitationSettings, fast_check: bool = False) -> None:
    """Train; last.ckpt is the last epoch, best.ckpt has the highest validation MRR where imitations are held out."""
    from common.training.trainer import fit, make_trainer
    from retrieval.imitation.train import ImitationModule, training_loader
    from retrieval.train import on_this_machine

    pairs, held_out = read_training(settings.data, settings.tested == "best")
    seed_all(settings.seed)
    model = ImitationModel(make_audio_encoder(settings.audio), settings.shared)
    validation = coarse_search(held_out) if len(held_out) else None
    monitor = None if validation is None else MONITOR
    folder, machine = run.folder / "train", on_this_machine(settings.trainer)
    trainer = make_trainer(machine, folder, settings.seed, monitor=monitor, fast_check=fast_check)
    once = None if validation is None else DataLoader(TensorDataset(torch.zeros(1)))
    with measure_energy(folder, settings.trainer):
        loader = training_loader(pairs, model.sample_rate, settings)
        fit(trainer, ImitationModule(model, settings, validation), loader, once)


def score_encoders(run: VoiceRun, settings: ImitationSettings, fast_check: bool = False) -> None:
    """test/: evaluation.json and the similarities of the test."""
    search = read_search(settings.data)
    model = load_imitation_model(run)
    similarity = model.compare(search.queries, search.items, settings.data.duration, settings.eval_batch)
    figures = as_json(score_search(similarity, search, settings.seed))
    write_json(
        run.folder / "test" / "evaluation.json",
        {
            "figures": {settings.data.layout: figures},
            "tested": "last epoch" if settings.tested == "last" else f"epoch of highest validation {MONITOR}",
            "clips": {"queries": len(search.queries), "items": len(search.items)},
            "made_up": is_made_up_data(settings),
            "tie_rule": TIE_RULE,
        },
    )
    names = {"queries": [path.name for path in search.queries], "items": [path.name for path in search.items]}
    write_json(run.folder / "test" / "similarities.json", {**names, "similarity": similarity.tolist()})


def find_checkpoint(run: VoiceRun) -> Path:
    """The checkpoint of the tested epoch."""
    return run.checkpoint(f"train/{run.settings.tested}.ckpt")


def load_imitation_model(run: VoiceRun) -> ImitationModel:
    """The tested checkpoint of a run, on the GPU where there is one."""
    path = find_checkpoint(run)
    model = ImitationModel(make_audio_encoder(run.settings.audio), run.settings.shared)
    load_weights(model, path, prefix="model.")
    return model.to(choose_device(run.settings.trainer)).eval()


def is_made_up_data(settings: ImitationSettings) -> bool:
    """Whether the data of a run are made up."""
    root = settings.data.root
    return any(is_made_up(folder) for folder in (root, root.parent, root.parent.parent))


def check_inputs(run: VoiceRun) -> None:
    """Refuse missing tables and sounds before a folder is made."""
    read_training(run.settings.data, run.settings.tested == "best")
    read_search(run.settings.data)


DATA = tuple(f"data.{name}" for name in ("layout", "root", "test_root", "fold", "duration"))
ENCODERS = ("seed", *DATA, "audio", "shared", "tested")
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))
STAGES = [
    Stage("train", train_encoders, uses=(*ENCODERS, "augmentation", "training", *TRAINER)),
    Stage("test", score_encoders, uses=ENCODERS, alone=True),
]


def make_stages(settings: ImitationSettings) -> list[Stage]:
    """The stages are the same for all settings."""
    return STAGES


RECIPE = Recipe(ImitationSettings, make_stages, result_row, is_made_up_data, check_inputs)

"""Fine-tuning of a frame model on DCASE 2016 Task 2, the downstream test of the pre-training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.loading import rank_and_count
from common.data.made_up import is_made_up
from common.errors import UserError
from common.files import write_json
from common.models.audio_model import AudioModel
from common.output import say
from common.runs.energy import EnergyMeter
from common.runs.folder import is_main_process
from common.runs.stages import Run, Stage, read_record, run_stages
from common.training.checkpoints import save_checkpoint, weights_of
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from task4_sed.pretraining.augment import Share, joined
from task4_sed.pretraining.clips import batch_loader, scoring_loader
from task4_sed.pretraining.networks import make_model, start_from_weights
from task4_sed.pretraining.office.data import FixedPieces, RandomCrops, Recordings, read_recordings, read_vocabulary
from task4_sed.pretraining.office.scores import find_events, office_figures
from task4_sed.pretraining.sampler import EpochDraws, JointBatches
from task4_sed.pretraining.settings import OfficeSettings
from task4_sed.pretraining.targets import FRAMES
from task4_sed.pretraining.train import Batch, FrameTraining


class OfficeTraining(FrameTraining):
    """Training on random crops; logs of the validation recordings val_onset_f1, val_onset_f1_50ms and error rate.

    Args:
        settings, model: as of `FrameTraining`.
        pieces: of the recordings that are validated on; None where there are none.
    """

    def __init__(self, settings: OfficeSettings, model: AudioModel, pieces: FixedPieces | None = None):
        super().__init__(settings, model)
        self._pieces = [pieces]  # in a list: it is no part of the checkpoint
        self._logits: dict[int, np.ndarray] = {}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep the logits of the pieces of all processes."""
        rows, logits = self.detect_jointly(batch)
        self._logits |= dict(zip(rows.tolist(), logits.cpu().numpy()))

    def detect_jointly(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows (pieces,) and logits (pieces, 250, classes) of a batch of all processes."""
        share = Share(int(batch["first"]), len(batch["waveform"]), int(batch["joint"]))
        return joined(batch["row"], share), joined(self.detect(batch["waveform"]), share)

    def on_validation_epoch_end(self) -> None:
        """Log the figures; every process works out the same."""
        pieces, logits = self._pieces[0], self._logits
        self._logits = {}
        assert pieces is not None and isinstance(self.settings, OfficeSettings)
        figures = score_pieces(np.stack([logits[row] for row in range(len(pieces))]), pieces, self.settings, 0)
        self.log_dict({f"val_{name}": figure["value"] for name, figure in figures.items()})


def score_pieces(logits: np.ndarray, pieces: FixedPieces, settings: OfficeSettings, draws: int) -> dict[str, Any]:
    """Figures of recordings from the logits (pieces, 250, classes) of all their pieces."""
    recordings = pieces.recordings
    found = [find_events(of_file, recordings.classes, settings.events) for of_file in pieces.join(logits)]
    return office_figures(found, recordings, draws)


def train_network(run: Run, settings: OfficeSettings) -> None:
    """Fine-tune the network.

    Writes train/last.ckpt, metrics.csv, energy.json and weights.pt: the network alone.
    """
    folder, data = run.folder / "train", settings.data
    crops, pieces = RandomCrops(read_recordings(data.root, "train")), FixedPieces(read_recordings(data.root, "valid"))
    draws = EpochDraws(len(crops), len(crops))
    batches = JointBatches(draws, data.batch_size, settings.seed, settings.augmentation.wavmix)
    loader = batch_loader(crops, batches, data.num_workers, torch.cuda.is_available())
    validation = scoring_loader(pieces, len(pieces), data.scoring_batch, data.num_workers)
    seed_all(settings.seed)
    model = make_model(settings.model, read_vocabulary(data.root))
    start_from_weights(model, settings.model)
    module = OfficeTraining(settings, model, pieces)
    trainer = make_trainer(settings.trainer, folder, settings.seed)
    say(f"train: {len(crops.recordings)} recordings, {len(loader)} batches an epoch")
    with EnergyMeter(folder if settings.trainer.measure_energy else None, settings.trainer.country):
        fit(trainer, module, loader, validation)
    if is_main_process():
        save_checkpoint(module.network.state_dict(), folder / "weights.pt")


@torch.inference_mode()
def score_network(run: Run, settings: OfficeSettings) -> None:
    """Find the events of the test recordings with the network after the last epoch.

    Processes that have trained together score together. Reads train/last.ckpt. Writes test/evaluation.json: `FIGURES`
    with value and interval; test/events.json in HEAR's form.
    """
    rank, world = rank_and_count()
    if world == 1 and not is_main_process():
        return
    module = load_module(run)
    pieces = FixedPieces(read_recordings(settings.data.root, "test"))
    logits = np.empty((len(pieces), FRAMES, len(pieces.recordings.classes)), dtype=np.float32)
    for batch in scoring_loader(pieces, len(pieces), settings.data.scoring_batch):
        moved = {name: batch[name].to(module.device) for name in ("waveform", "row")}
        rows, found = module.detect_jointly({**batch, **moved})
        logits[rows.cpu().numpy()] = found.cpu().numpy()
    if rank > 0:
        return
    facts = {"seed": settings.seed, "made_up": is_made_up(settings.data.root), "model": settings.model.name}
    figures = score_pieces(logits, pieces, settings, draws=1000)
    write_json(run.folder / "test" / "evaluation.json", {**facts, **figures, "recordings": len(pieces.recordings)})
    write_json(run.folder / "test" / "events.json", _in_milliseconds(logits, pieces, settings))


def load_module(run: Run) -> OfficeTraining:
    """The trained network of a run in evaluation mode, on the GPU where there is one."""
    settings = run.settings
    path = run.folder / "train" / "last.ckpt"
    if not path.is_file():
        raise UserError(f"{run.folder} is not trained yet: {path} is missing. Finish it with --resume {run.folder}.")
    module = OfficeTraining(settings, make_model(settings.model, read_vocabulary(settings.data.root)))
    module.network.load_state_dict(weights_of(path, "network."))
    use_gpu = settings.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return module.eval().to("cuda" if use_gpu else "cpu")


def read_evaluation(run: Run) -> dict[str, Any]:
    """The content of test/evaluation.json.

    Raises:
        UserError: if the run is not finished.
    """
    read_record(run.folder, "test")
    return json.loads((run.folder / "test" / "evaluation.json").read_text(encoding="utf-8"))


def run_recipe(settings: OfficeSettings, folder: Path | None = None, redo: Sequence[str] = ()) -> Run:
    """Do what is not done of a run; arguments as in `pretraining.recipe`."""
    run = Run(folder or settings.folder, settings)
    run_stages(run, STAGES, redo)
    return run


def _in_milliseconds(logits: np.ndarray, pieces: FixedPieces, settings: OfficeSettings) -> dict[str, Any]:
    recordings: Recordings = pieces.recordings
    events = {}
    for path, of_file in zip(recordings.paths, pieces.join(logits)):
        found = find_events(of_file, recordings.classes, settings.events)
        events[path.name] = [{"label": c, "start": round(1000 * a, 3), "end": round(1000 * b, 3)} for a, b, c in found]
    return events


TRAINING = ("seed", "data.root", "data.batch_size", "model", "augmentation", "optim")
TRAINER = tuple(f"trainer.{name}" for name in ("epochs", "precision", "gradient_clip", "accumulate", "validate_every"))

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "events")),
]

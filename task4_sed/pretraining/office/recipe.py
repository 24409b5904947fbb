"""Fine-tuning of a frame model on DCASE 2016 Task 2, the downstream test of the pre-training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor

from common.data.files import write_json
from common.data.loading import EpochDraws, make_plan_loader, rank_and_count
from common.models.audio_model import AudioModel
from common.models.network import uses_gpu
from common.output import say
from common.reports.statistics import bootstrap_interval
from common.runs.recipe import Recipe
from common.runs.run import Run, is_done
from common.runs.stages import Stage
from common.training.seeds import seed_all
from task4_sed.pretraining.augment import Share, joined
from task4_sed.pretraining.clips import JointBatches, scoring_loader
from task4_sed.pretraining.networks import make_model, refuse_absent_weights, start_from_weights
from task4_sed.pretraining.office.data import (
    Event,
    FixedPieces,
    RandomCrops,
    Recordings,
    read_recordings,
    read_vocabulary,
)
from task4_sed.pretraining.recipe import (
    batches_on_device,
    fit_network,
    load_trained,
    takes_part_in_scoring,
    uses_made_up_data,
    write_evaluation,
)
from task4_sed.pretraining.settings import OfficeEventSettings, OfficeSettings
from task4_sed.pretraining.tables import FRAME_SECONDS, FRAMES
from task4_sed.pretraining.train import Batch, FrameTraining
from task4_sed.settings import TRAINER, validate_each_epoch

COLLARS = {"onset_f1": 0.2, "onset_f1_50ms": 0.05}
FIGURES = (*COLLARS, "segment_error_rate")


def find_events(logits: NDArray, classes: Sequence[str], settings: OfficeEventSettings) -> list[Event]:
    """Events of a recording from frame logits (frames, classes).

    The median filter is scipy's: of an even number of frames it takes the upper of the two middle ones.
    """
    width = round(settings.median_ms / 1000 / FRAME_SECONDS)
    scores = median_filter(logits, size=(width, 1)) if width > 1 else logits
    if settings.scores == "probabilities":
        scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
    active = np.pad(scores > settings.threshold, ((1, 1), (0, 0)))
    changes = np.diff(active.astype(np.int8), axis=0)
    events = []
    for index, label in enumerate(classes):
        first, last = np.flatnonzero(changes[:, index] == 1), np.flatnonzero(changes[:, index] == -1)
        if settings.borders == "centres":
            onsets, offsets = (first + 0.5) * FRAME_SECONDS, (last - 0.5) * FRAME_SECONDS
        else:
            onsets, offsets = first * FRAME_SECONDS, last * FRAME_SECONDS
        long = offsets - onsets >= settings.min_duration_ms / 1000 - 1e-9
        events += [(float(a), float(b), label) for a, b in zip(onsets[long], offsets[long])]
    return sorted(events)


def office_figures(found: Sequence[Sequence[Event]], recordings: Recordings, draws: int = 1000) -> dict[str, Any]:
    """Onset F1 with collars of 200 and 50 ms, and error rate of segments of 1 s: value and 95 % interval each.

    `found`: events of each recording; `draws`: resamplings of the recordings, 0 for none.
    """
    counts: dict[str, list[tuple[float, float]]] = {name: [] for name in FIGURES}
    for own, right in zip(found, recordings.events, strict=True):
        for name, collar in COLLARS.items():
            matched = sum(_matched(own, right, label, collar) for label in recordings.classes)
            counts[name].append((2 * matched, len(own) + len(right)))
        end = max((int(np.ceil(offset)) for _, offset, _ in (*own, *right)), default=0)
        detected, there = _activity(own, recordings.classes, end), _activity(right, recordings.classes, end)
        # Missed and false classes of one second make substitutions; the rest are deletions or insertions.
        errors = np.maximum((there & ~detected).sum(axis=1), (detected & ~there).sum(axis=1))
        counts["segment_error_rate"].append((float(errors.sum()), float(there.sum())))
    groups = np.arange(len(recordings))
    figures = {}
    for name, rows in counts.items():
        random = np.random.default_rng(0)
        value, low, high = bootstrap_interval(_ratio, np.array(rows, dtype=float), groups, random, max(draws, 2))
        figures[name] = {"value": value, "interval": None if np.isnan(low) or not draws else (low, high)}
    return figures


def _ratio(sums: NDArray) -> NDArray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _matched(own: Sequence[Event], right: Sequence[Event], label: str, collar: float) -> int:
    """Most pairs of events whose onsets lie at most `collar` apart; each event is in one pair at most."""
    found = sorted(onset for onset, _, name in own if name == label)
    wanted = sorted(onset for onset, _, name in right if name == label)
    count = position = 0
    for onset in wanted:  # with one collar for all, taking the earliest that fits is best
        while position < len(found) and found[position] < onset - collar - 1e-9:
            position += 1
        if position < len(found) and found[position] <= onset + collar + 1e-9:
            count += 1
            position += 1
    return count


def _activity(events: Sequence[Event], classes: Sequence[str], seconds: int) -> NDArray[np.bool_]:
    active = np.zeros((seconds, len(classes)), dtype=bool)
    for onset, offset, label in events:
        active[int(np.floor(onset)) : int(np.ceil(offset)), classes.index(label)] = True
    return active


class OfficeTraining(FrameTraining):
    """Training on random crops; logs val_onset_f1, val_onset_f1_50ms and error rate of the validation recordings.

    `pieces` are of these recordings; None without validation.
    """

    def __init__(self, settings: OfficeSettings, model: AudioModel, pieces: FixedPieces | None = None):
        super().__init__(settings, model)
        self._pieces = [pieces]  # in a list: it is no part of the checkpoint
        self._logits: dict[int, NDArray] = {}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Keep the logits of the pieces of all processes."""
        rows, logits = self.detect_jointly(batch)
        self._logits |= dict(zip(rows.tolist(), logits.cpu().numpy()))

    def detect_jointly(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows (pieces,) and logits (pieces, 250, classes) of a batch of all processes."""
        share = Share(int(batch["first"]), len(batch["waveform"]), int(batch["joint"]))
        return joined(batch["row"], share), joined(self.detect(batch["waveform"]), share)

    def on_validation_epoch_end(self) -> None:
        """Log the figures; every process computes the same."""
        pieces, logits = self._pieces[0], self._logits
        self._logits = {}
        assert pieces is not None and isinstance(self.settings, OfficeSettings)
        figures = score_pieces(stack(logits, pieces), pieces, self.settings, 0)
        self.log_dict({f"val_{name}": figure["value"] for name, figure in figures.items()})


def stack(logits: dict[int, NDArray], pieces: FixedPieces) -> NDArray:
    """(pieces, 250, classes); pieces that were not scored, as after two steps, have no events."""
    silent = np.full((FRAMES, len(pieces.recordings.classes)), -100.0, dtype=np.float32)
    return np.stack([logits.get(row, silent) for row in range(len(pieces))])


def score_pieces(logits: NDArray, pieces: FixedPieces, settings: OfficeSettings, draws: int) -> dict[str, Any]:
    """Figures of recordings from the logits (pieces, 250, classes) of all their pieces."""
    recordings = pieces.recordings
    found = [find_events(of_file, recordings.classes, settings.events) for of_file in pieces.join(logits)]
    return office_figures(found, recordings, draws)


def train_network(run: Run[OfficeSettings], settings: OfficeSettings, fast_check: bool = False) -> None:
    """Fine-tune the network.

    Writes train/last.ckpt, metrics.csv, energy.json and weights.pt: the network alone.
    """
    data = settings.data
    crops, pieces = RandomCrops(read_recordings(data.root, "train")), FixedPieces(read_recordings(data.root, "valid"))
    draws = EpochDraws(len(crops), len(crops))
    batches = JointBatches(draws, data.batch_size, settings.seed, settings.augmentation.wavmix)
    loader = make_plan_loader(crops, batches, data.num_workers, uses_gpu(settings.trainer))
    validation = scoring_loader(pieces, len(pieces), data.scoring_batch, data.num_workers)
    seed_all(settings.seed)
    model = make_model(settings.model, read_vocabulary(data.root))
    start_from_weights(model, settings.model)
    say(f"train: {len(crops.recordings)} recordings, {len(loader)} batches per epoch")
    fit_network(run, OfficeTraining(settings, model, pieces), loader, validation, fast_check)


@torch.inference_mode()
def score_network(run: Run[OfficeSettings], settings: OfficeSettings, fast_check: bool = False) -> None:
    """Find the events of the test recordings with the network after the last epoch.

    Processes that trained together score together. Reads train/last.ckpt. Writes test/evaluation.json: `FIGURES` with
    value and interval; test/events.json in HEAR's form.
    """
    if not takes_part_in_scoring():
        return
    module = load_module(run)
    pieces = FixedPieces(read_recordings(settings.data.root, "test"))
    logits: dict[int, NDArray] = {}
    for batch in batches_on_device(
        scoring_loader(pieces, len(pieces), settings.data.scoring_batch), module, fast_check
    ):
        rows, scores = module.detect_jointly(batch)
        logits |= dict(zip(rows.tolist(), scores.cpu().numpy()))
    if rank_and_count()[0] > 0:
        return
    stacked = stack(logits, pieces)
    recordings = pieces.recordings
    figures = score_pieces(stacked, pieces, settings, draws=1000)
    write_evaluation(run, {**figures, "recordings": len(recordings)})
    events = {}
    for path, of_file in zip(recordings.paths, pieces.join(stacked)):
        found = find_events(of_file, recordings.classes, settings.events)
        events[path.name] = [{"label": c, "start": round(1000 * a, 3), "end": round(1000 * b, 3)} for a, b, c in found]
    write_json(run.folder / "test" / "events.json", events)


def load_module(run: Run[OfficeSettings]) -> OfficeTraining:
    """The trained network of a run in evaluation mode, on the GPU if there is one."""
    settings = run.settings
    model = make_model(settings.model, read_vocabulary(settings.data.root))
    return load_trained(OfficeTraining(settings, model), run)


def make_stages(settings: OfficeSettings) -> list[Stage]:
    """Training and test."""
    return STAGES


def result_row(run: Run[OfficeSettings]) -> dict[str, Any]:
    """The figures of a finished run in one flat row; 0..1."""
    found = run.read_evaluation()
    return {name: found[name]["value"] for name in FIGURES}


def without_absent_weights(settings: OfficeSettings) -> OfficeSettings:
    """Settings of `--fast_check`: random weights where the file of weights is not there yet."""
    settings = validate_each_epoch(settings)
    if settings.model.weights is None or settings.model.weights.is_file():
        return settings
    say(f"There is no {settings.model.weights} yet: two steps from random weights.")
    return settings.model_copy(update={"model": settings.model.model_copy(update={"untrained": True})})


def refuse_early(run: Run[OfficeSettings]) -> None:
    """Refuse missing or wrong recordings and weights, unless the run is finished."""
    if not is_done(run, "test"):
        for split in ("train", "valid", "test"):
            read_recordings(run.settings.data.root, split)
    if not is_done(run, "train"):
        refuse_absent_weights(run.settings.model)


TRAINING = ("seed", "data.root", "data.batch_size", "model", "augmentation", "optim")

STAGES = [
    Stage("train", train_network, uses=(*TRAINING, *TRAINER)),
    Stage("test", score_network, uses=(*TRAINING, *TRAINER, "events")),
]
RECIPE = Recipe(
    OfficeSettings, make_stages, result_row, uses_made_up_data, refuse_early, for_check=without_absent_weights
)

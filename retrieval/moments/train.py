"""How QD-DETR learns, and how it answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from common.data.loading import make_plan_loader
from common.models.network import uses_gpu
from common.runs.energy import measure_energy
from common.training.trainer import fit, make_trainer
from retrieval.moments.annotations import Query
from retrieval.moments.data import Batch, MomentQueries, QueryBatches, collate
from retrieval.moments.features import FeatureReader
from retrieval.moments.losses import as_windows, make_targets, moment_losses
from retrieval.moments.metrics import LISTED, Array, mean_average_precision, recall_at_1
from retrieval.moments.network import FOREGROUND, QDDETR
from retrieval.moments.settings import Detector, MomentSettings
from retrieval.train import on_this_machine

MONITOR = "selection"
"""R1@0.7, and of epochs with equal R1@0.7 the one with the higher mAP."""
PUBLISHED_END = 300.0
TAIL = 2
"""Seconds beyond `data.max_seconds` that make no piece of their own."""


class MomentModule(LightningModule):
    """Training of a detector; validated on R1@0.7 of all validation queries."""

    def __init__(self, model: QDDETR, settings: MomentSettings, validation: Sequence[Query], reader: FeatureReader):
        super().__init__()
        assert isinstance(settings.system, Detector)
        self.model, self.settings, self.detector = model, settings, settings.system
        self.validation, self.reader = validation, reader

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the losses of a batch."""
        losses = self.compute_losses(batch)
        for name, loss in losses.items():
            self.log(f"loss_{name}", loss, on_step=False, on_epoch=True, batch_size=len(batch.durations))
        total = torch.stack([*losses.values()]).sum()
        self.log("loss", total, on_step=False, on_epoch=True, batch_size=len(batch.durations))
        return total

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by name."""
        targets = make_targets(batch.draws, batch.durations, batch.audio_mask)
        output = self.model(batch.audio, batch.audio_mask, batch.text, batch.text_mask)
        return moment_losses(output, batch.audio_mask, targets, self.detector.losses)

    def validation_step(self, batch: object, batch_idx: int) -> None:
        """Nothing by batch: all queries are answered at once."""

    def on_validation_epoch_end(self) -> None:
        """Log R1 and mAP of the validation queries."""
        answers = answer(self.model, self.validation, self.reader, self.settings)
        found = {query.qid: windows for query, (windows, _) in zip(self.validation, answers, strict=True)}
        truth = {query.qid: query.windows for query in self.validation}
        half, strict = recall_at_1(found, truth, (0.5, 0.7)).tolist()
        precision = float(mean_average_precision(found, truth).mean())
        figures = {
            "R1@0.5": half,
            "R1@0.7": strict,
            "mAP": precision,
            MONITOR: selection(strict, precision, len(truth)),
        }
        self.log_dict(figures, rank_zero_only=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with a constant rate: the published step is never reached."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(parameters, lr=self.detector.lr, weight_decay=self.detector.weight_decay)


def selection(recall: float, precision: float, queries: int) -> float:
    """`MONITOR` of a number of queries: a hit more or less outweighs every mAP."""
    return recall + precision / 2 / queries


def make_detector(settings: Detector, reader: FeatureReader, query: Query) -> QDDETR:
    """A network for the sizes of the features of a query; random weights come from torch's global generator."""
    sizes = {"audio_dim": reader.audio(query).shape[1], "text_dim": reader.text(query).shape[1]}
    options = settings.model_dump(
        include={
            "dim", "heads", "feedforward", "encoder_layers", "decoder_layers", "slots", "input_dropout", "dropout",
            "max_words", "endpoints", "batch_fault",
        }
    )  # fmt: skip
    return QDDETR(**sizes, **options)


def train(
    folder: Path,
    model: QDDETR,
    sides: tuple[Sequence[Query], Sequence[Query]],
    readers: tuple[FeatureReader, FeatureReader],
    settings: MomentSettings,
    epochs: int,
    seed: int,
    fast_check: bool = False,
) -> None:
    """Train in `folder`: last.ckpt resumes an interrupted training, best.ckpt has the highest validation R1@0.7.

    Args:
        sides: queries for training and for validation.
        readers: of their features.
        seed: decides weights, batches, drawn windows and dropout.
    """
    assert isinstance(settings.system, Detector)
    detector, data = settings.system, settings.data
    every = min(detector.trainer.validate_every, 1 if fast_check else epochs)
    machine = on_this_machine(detector.trainer.model_copy(update={"epochs": epochs, "validate_every": every}))
    trainer = make_trainer(machine, folder, seed, monitor=MONITOR, fast_check=fast_check, share_clips=False)
    clips = MomentQueries(sides[0], readers[0], data.max_seconds, detector, seed)
    sampler = QueryBatches(len(clips), detector.batch_size, seed, trainer.global_rank, trainer.world_size)
    module = MomentModule(model, settings, sides[1], readers[1])
    with measure_energy(folder, machine):
        once = DataLoader(TensorDataset(torch.zeros(1)))
        fit(trainer, module, make_plan_loader(clips, sampler, data.num_workers, uses_gpu(machine)), once)


@torch.inference_mode()
def answer(
    model: QDDETR, queries: Sequence[Query], reader: FeatureReader, settings: MomentSettings
) -> list[tuple[Array, Array]]:
    """For each query its windows (n, 3), best first, at most ten, and the saliency of its seconds.

    A recording longer than `data.max_seconds` is answered in pieces; the best windows of all pieces count.
    """
    assert isinstance(settings.system, Detector)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    longest, words = settings.data.max_seconds, settings.system.max_words
    found: list[list[Array]] = [[] for _ in queries]
    curves: list[list[Array]] = [[] for _ in queries]
    starts = [range(0, max(1, len(reader.audio(query)) - TAIL), longest) for query in queries]
    pieces = [(row, start) for row, every in enumerate(starts) for start in every]
    for first in range(0, len(pieces), settings.eval_batch):
        chosen = pieces[first : first + settings.eval_batch]
        audio = [reader.audio(queries[row])[start : start + longest] for row, start in chosen]
        lengths = [min(queries[row].duration - start, float(longest)) for row, start in chosen]
        batch = collate(audio, [reader.text(queries[row])[:words] for row, _ in chosen], lengths, [])
        inputs = (batch.audio, batch.audio_mask, batch.text, batch.text_mask)
        output = model(*(tensor.to(device) for tensor in inputs))
        windows = as_windows(output.spans[-1].float()).cpu().numpy().astype(np.float64)
        scores = output.logits[-1].float().softmax(dim=-1)[..., FOREGROUND].cpu().numpy()
        for place, (row, start) in enumerate(chosen):
            times = windows[place] * lengths[place] + start
            found[row].append(np.column_stack([times, scores[place]]))
            curves[row].append(output.saliency[place, : len(audio[place])].float().cpu().numpy())
    model.train(training)
    return [
        (finish_windows(np.concatenate(parts), query.duration, settings.times), np.concatenate(curve))
        for query, parts, curve in zip(queries, found, curves, strict=True)
    ]


def finish_windows(windows: Array, duration: float, times: str) -> Array:
    """The ten best of windows (n, 3) with the times of the setting `times`."""
    windows = windows[np.argsort(-windows[:, 2], kind="stable")[:LISTED]].copy()
    end = PUBLISHED_END if times == "published" else duration
    windows[:, :2] = windows[:, :2].clip(0, end)
    if times == "exact":
        return windows
    windows[:, :2] = windows[:, :2].round()
    if times == "whole":
        windows[:, 0] = np.minimum(windows[:, 0], max(0.0, np.floor(duration) - 1))
        windows[:, 1] = np.minimum(np.maximum(windows[:, 1], windows[:, 0] + 1), max(1.0, np.floor(duration)))
    return windows

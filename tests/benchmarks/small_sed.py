"""A detector so small that a training step takes some ten milliseconds, for trials of Task 4 with many trainings.

Trained by `StageTraining`: its views, losses, schedule and moving average. In place of the CRNN is a stack of three
convolutions over time, and in place of waveforms are mel magnitudes that were computed once, one column a label frame.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.features.front_ends import DesedMel
from common.models.crnn import score_heads
from common.models.frame_prediction import SequenceModel
from common.models.network import ModelOutput
from common.reports.statistics import mean_interval, paired_difference
from common.settings import load_settings
from common.training.schedules import WarmupCosine
from common.training.seeds import seed_all
from task4_sed.augment import Streams
from task4_sed.data.targets import EventTargets
from task4_sed.iterations.network import TransformerCrnn, make_optimizer
from task4_sed.iterations.settings import KINDS, TwoIterations
from task4_sed.iterations.train import Scores, StageTraining, compare
from task4_sed.iterations.views import Features, Targets, Views
from task4_sed.labels import CLIP_SECONDS, DESED_CLASSES, NUM_FRAMES, POOLING, Domain
from task4_sed.mean_teacher.training import Batch
from task4_sed.metrics import PSDS1_MACRO, evaluation_set, polyphonic_scores
from task4_sed.scores.tables import ScoreTables, median_filter
from task4_sed.scoring import make_score_tables
from task4_sed.systems import AnySystem

SMALL = Path("task4_sed/configs/two_iterations_small.yaml")
MELS, WIDTH = 32, 32
TENSORS = ("magnitude", "strong", "weak", "valid", "log_mel")


@dataclass(frozen=True)
class Clips:
    """Clips of 10 s: magnitude (clips, 1, 32, 156), strong (clips, classes, 156), weak and valid (clips, classes).

    events: table with columns clip (row), onset, offset, event_label. log_mel: (clips, 1, mels, frames) for a
    transformer, or (clips, 1, 1, 1).
    """

    magnitude: Tensor
    strong: Tensor
    weak: Tensor
    valid: Tensor
    log_mel: Tensor
    events: pd.DataFrame

    def __len__(self) -> int:
        return len(self.magnitude)

    def select(self, rows: Sequence[int] | np.ndarray) -> "Clips":
        """Some clips in a new order."""
        place = pd.Series(np.arange(len(rows)), index=np.asarray(rows))
        events = self.events[self.events["clip"].isin(place.index)]
        events = events.assign(clip=events["clip"].map(place)).reset_index(drop=True)
        index = torch.as_tensor(np.asarray(rows))
        return Clips(*(getattr(self, name)[index] for name in TENSORS), events)

    def truth(self) -> dict[str, list[tuple[float, float, str]]]:
        """Events by clip."""
        found: dict[str, list[tuple[float, float, str]]] = {clip_name(row): [] for row in range(len(self))}
        for row in self.events.itertuples():
            found[clip_name(row.clip)].append((row.onset, row.offset, row.event_label))
        return found


def clip_name(row: int) -> str:
    """Name of a clip in score tables."""
    return f"clip{row:04d}"


def make_clips(
    waveforms: Sequence[np.ndarray], events: pd.DataFrame, settings: TwoIterations, domain: Domain = "desed",
    transformer_front_end: nn.Module | None = None,
) -> Clips:  # fmt: skip
    """Features and targets of waveforms at 16 kHz."""
    front_end = DesedMel(n_mels=MELS)
    magnitude, log_mel = [], []
    for waveform in waveforms:
        padded = np.zeros(round(CLIP_SECONDS * 16000), dtype=np.float32)
        padded[: len(waveform)] = waveform[: len(padded)]
        wave = torch.from_numpy(padded)[None]
        whole = front_end.magnitude(wave)
        log_mel.append(torch.zeros(1, 1, 1, 1) if transformer_front_end is None else transformer_front_end(wave))
        magnitude.append(whole[..., : NUM_FRAMES * POOLING].unflatten(-1, (NUM_FRAMES, POOLING)).mean(dim=-1))
    targets = EventTargets(len(waveforms), events, domain, settings.labels).gather(np.arange(len(waveforms)))
    labels = map(torch.from_numpy, (targets.strong, targets.weak, targets.valid))
    return Clips(torch.cat(magnitude), *labels, torch.cat(log_mel), events)


def make_settings(work: Path, seed: int, classes: Sequence[str], number: int = 1, **stage: Any) -> TwoIterations:
    """Settings of a training; `stage` are dotted names below stage `number`, dots written as two underscores."""
    own = {f"stage{number}.{name.replace('__', '.')}": value for name, value in stage.items()}
    plain: dict[str, Any] = {
        "data.root": str(work), "runs": str(work), "seed": seed, "labels.classes": list(classes),
        "members": ["atst"], "teacher": {"decay": 0.995, "average_statistics": True},
        "stage1.loss.scale": 1.0, "stage2.loss.frame_divisor": 1.0, "stage2.augment.time_mask": None,
        "stage2.augment.frequency_warp": None,
        "stage1.optim": {"cnn_lr": 1e-2, "rnn_lr": 1e-2, "transformer_lr": None, "weight_decay": 1e-2,
                         "warmup_steps": 100},
        "stage2.optim": {"cnn_lr": 2e-3, "rnn_lr": 2e-3, "transformer_lr": 1e-3, "layer_decay": 0.8,
                         "weight_decay": 1e-2, "warmup_steps": 30},
        "trainer.measure_energy": False, "trainer.accelerator": "cpu",
    }  # fmt: skip
    for name in ("stage1", "stage2"):
        plain |= {
            f"{name}.augment.wavmix": None, f"{name}.augment.mixstyle": None, f"{name}.augment.mixup.probability": 0.5,
            f"{name}.augment.filter": {"probability": 0.5, "on_log_mels": "kept"},
        }  # fmt: skip
    return load_settings(AnySystem, SMALL, {**plain, **own})


class TimeConvolutions(nn.Module):
    """Frame logits from three convolutions over time, which read mels and embeddings as channels."""

    def __init__(self, num_classes: int, embedding_dim: int = 0):
        super().__init__()
        self.embedding_dim = embedding_dim
        layers: list[nn.Module] = []
        for channels, dilation in ((MELS + embedding_dim, 1), (WIDTH, 2), (WIDTH, 4)):
            layers.append(nn.Conv1d(channels, WIDTH, 5, padding=2 * dilation, dilation=dilation))
            layers += [nn.BatchNorm1d(WIDTH), nn.ReLU()]
        self.cnn = nn.Sequential(*layers)
        self.strong_head, self.attention_head = nn.Linear(WIDTH, num_classes), nn.Linear(WIDTH, num_classes)

    def read(self, spectrogram: Tensor, embeddings: Tensor) -> Tensor:
        """(clips, 1, mels, frames) and (clips, dim, tokens) to the input of the heads, (clips, frames, width)."""
        features = spectrogram.squeeze(1)
        if self.embedding_dim:
            tokens = nn.functional.adaptive_avg_pool1d(embeddings, features.shape[-1])
            features = torch.cat((features, tokens), dim=1)
        return self.cnn(features).mT

    def score(self, frames: Tensor, class_mask: Tensor | None = None) -> ModelOutput:
        """See `Crnn.score`."""
        frame_logits, logits = score_heads(self.strong_head(frames), self.attention_head(frames), class_mask)
        return ModelOutput(logits, frames.mean(dim=1), frames, frame_logits)


class NoTransformer(SequenceModel):
    """Gives what it gets."""

    def forward(self, log_mel: Tensor) -> Tensor:
        """(clips, 1, tokens, dim) to (clips, tokens, dim)."""
        return log_mel.squeeze(1)


class SmallTraining(StageTraining):
    """`StageTraining` of `TimeConvolutions`, on batches with ``magnitude`` and ``log_mel`` in place of ``waveform``.

    Args:
        settings: of stage 1, or of stage 2 where it trains the transformer.
        pseudo_masked: False learns pseudo-labels of all classes, also those that are not valid for the clip.
        number: of the stage.
        start: network to start from; None for a new one without transformer.
    """

    def __init__(
        self, settings: TwoIterations, pseudo_masked: bool = True, number: int = 1, start: TransformerCrnn | None = None
    ):
        super().__init__(settings, "atst", 1, number, released=False)
        seed_all(settings.seed)
        if start is None:
            start = TransformerCrnn(TimeConvolutions(len(settings.labels.classes)), NoTransformer(), None, True)
        self.student = start
        self.teacher = copy.deepcopy(start, {id(part): part for part in start.parts_in_common()}).requires_grad_(False)
        self.pseudo_masked = pseudo_masked
        self.steps_done = 0
        self._open: Targets | None = None

    @property
    def global_step(self) -> int:
        """Steps of the optimiser so far."""
        return self.steps_done

    @torch.no_grad()
    def views(self, batch: Batch, streams: Streams) -> Views:
        """See `Augmenter.views`."""
        features = Features(batch["magnitude"], batch["log_mel"])
        targets = Targets(batch["strong"], batch["weak"], batch["valid"], batch.get("pseudo"))
        draws = self.augmenter.draw(features, streams)
        if not self.pseudo_masked:
            everything = replace(targets, valid=torch.ones_like(targets.valid))
            self._open = self.augmenter.views(features, everything, draws).targets
        return self.augmenter.views(features, targets, draws)

    def terms(self, student: Scores, teacher: Scores | None, views: Views) -> dict[str, Tensor]:
        """See `StageTraining.terms`."""
        found = super().terms(student, teacher, views)
        if self._open is None:
            return found
        return found | {name: v for name, v in compare(student, self._open, self.rows).items() if "pseudo" in name}

    @torch.no_grad()
    def logits(self, clips: Clips, student: bool = True) -> Tensor:
        """Frame logits (clips, 156, classes), without a class mask."""
        network = self.student if student else self.teacher
        assert network is not None
        network.eval()
        found = []
        for magnitude, log_mel in zip(clips.magnitude.split(64), clips.log_mel.split(64)):
            spectrogram = self.front_end.scale(self.front_end.decibel(magnitude))
            found.append(network(spectrogram, log_mel).frame_logits)
        return torch.cat(found)


class SmallBatches(Dataset):
    """`steps` batches: of each kind `counts` clips, walking through the kind in random orders.

    Args:
        kinds: clips by kind, in the order of `KINDS`. pseudo: probabilities (clips, classes, 156) by kind, or None.
    """

    def __init__(
        self, kinds: Mapping[str, Clips], counts: Mapping[str, int], steps: int, seed: int,
        pseudo: Mapping[str, Tensor] | None = None,
    ):  # fmt: skip
        random = np.random.default_rng(seed)
        self.kinds, self.pseudo, self.steps = {kind: kinds[kind] for kind in KINDS if counts.get(kind)}, pseudo, steps
        self.rows = {}
        for kind, clips in self.kinds.items():
            needed = steps * counts[kind]
            walks = [random.permutation(len(clips)) for _ in range(-(-needed // len(clips)))]
            self.rows[kind] = np.concatenate(walks)[:needed].reshape(steps, counts[kind])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rows = {kind: torch.from_numpy(own[step]) for kind, own in self.rows.items()}
        batch = {name: torch.cat([getattr(self.kinds[kind], name)[rows[kind]] for kind in rows]) for name in TENSORS}
        if self.pseudo is not None:
            batch["pseudo"] = torch.cat([self.pseudo[kind][rows[kind]] for kind in rows])
        return batch


def train(
    settings: TwoIterations, batches: SmallBatches, pseudo_masked: bool = True, number: int = 1,
    start: TransformerCrnn | None = None,
) -> SmallTraining:  # fmt: skip
    """A trained module: the steps of a Lightning trainer without its accounts, which would cost as much again."""
    module = SmallTraining(settings, pseudo_masked, number, start).train()
    optim = settings.stage("atst", 1, number).optim
    optimizer = make_optimizer(module.student, optim)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(optim.warmup_steps, len(batches)))
    for step in range(len(batches)):
        module.update_teacher()  # the first time it is overwritten with the student
        views = module.views(batches[step], Streams(settings.seed, 0, step))
        loss = torch.stack(list(module.losses(views, step).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.student.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        module.steps_done += 1
    module.update_teacher()
    return module


def score_tables(logits: Tensor, classes: Sequence[str], first: int = 0) -> ScoreTables:
    """Probabilities of clips in order as score tables."""
    names = [clip_name(first + row) for row in range(len(logits))]
    return make_score_tables(names, logits.sigmoid().numpy(), [CLIP_SECONDS] * len(names), classes)


def psds1(logits: Tensor, clips: Clips, classes: Sequence[str]) -> float:
    """Mean of the classes' PSDS1 (DESED's) after a median of 7 frames."""
    tables = median_filter(score_tables(logits, classes), 7)
    durations = {clip_name(row): CLIP_SECONDS for row in range(len(clips))}
    evaluation = evaluation_set(tables, clips.truth(), durations, classes=DESED_CLASSES)
    return float(polyphonic_scores(evaluation, [PSDS1_MACRO], draws=0)[0].value)


def difference_row(name: str, control: Mapping[int, float], values: Mapping[int, float]) -> dict[str, Any]:
    """A row of a table, in points: mean over seeds, difference from the control with its 95 % t interval."""
    row = {"arm": name, "mean": f"{100 * mean_interval(list(values.values())).value:.1f}", "difference": "", "95 %": ""}
    if values is not control and len(values) > 1:
        found = paired_difference(control, values)
        row["difference"] = f"{100 * found.value:+.1f}"
        row["95 %"] = f"{100 * found.low:+.1f} .. {100 * found.high:+.1f}"
    return row

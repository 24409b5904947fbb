"""What student and teacher hear of a training batch: waveforms, features and labels, augmented.

The clips of a batch lie in the order maestro, strong, synthetic, weak, unlabelled, so that every part is a slice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.features.augment import draw_mixup, freq_mixstyle, gain, mix
from common.features.front_ends import DesedMel
from common.features.impulse_responses import DeviceImpulseResponses
from task4_sed.augment import (
    Streams,
    blank,
    colour,
    draw_shifts,
    filter_curve,
    frequency_warp,
    mixed_classes,
    stretch_of_frames,
    turn,
    wavmix,
)
from task4_sed.iterations.network import Ears
from task4_sed.iterations.settings import KINDS, AugmentSettings, BatchSettings, FilterAugmentSettings
from task4_sed.labels import NUM_FRAMES, SAMPLE_RATE


class Rows:
    """Where the parts of a batch lie.

    Attributes:
        kinds: by name. of: each kind that has clips. desed: all but MAESTRO. labelled: strong, synthetic and MAESTRO.
        strong: strong and synthetic.
    """

    def __init__(self, batch: BatchSettings):
        self.kinds: dict[str, slice] = {}
        start = 0
        for kind in KINDS:
            count = getattr(batch, kind)
            self.kinds[kind] = slice(start, start + count)
            start += count
        self.count = start
        self.present = [rows for rows in self.kinds.values() if rows.stop > rows.start]
        self.desed = slice(self.kinds["maestro"].stop, start)
        self.labelled = slice(0, self.kinds["synthetic"].stop)
        self.strong = slice(self.kinds["strong"].start, self.kinds["synthetic"].stop)
        self.mixed = [part for part in (self.labelled, self.kinds["weak"], self.kinds["unlabeled"]) if _size(part) > 1]


@dataclass(frozen=True)
class Heard:
    """Features and labels of a batch.

    magnitude: (clips, 1, mels, 626) for the CRNN, before the logarithm. log_mel: (clips, 1, mels, frames) for the
    transformer. strong, pseudo: (clips, classes, 156); pseudo is None without pseudo-labels. weak: (clips, classes).
    valid: (clips, classes), bool.
    """

    magnitude: Tensor
    log_mel: Tensor
    strong: Tensor
    weak: Tensor
    valid: Tensor
    pseudo: Tensor | None = None

    def with_frames(self, change: Callable[[Tensor], Tensor]) -> "Heard":
        """`change` of everything that lasts in time."""
        pseudo = None if self.pseudo is None else change(self.pseudo)
        return replace(
            self, magnitude=change(self.magnitude), log_mel=change(self.log_mel), strong=change(self.strong),
            pseudo=pseudo,
        )  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """How the clips of a batch were mixed: (clips,) own weight and index of the partner."""

    weight: Tensor
    partner: Tensor


@dataclass(frozen=True)
class Views:
    """clean: as it is after wavmix and masks. student, teacher: what each hears. mixture: None in a step without."""

    clean: Heard
    student: Heard
    teacher: Heard
    mixture: Mixture | None = None


@dataclass
class Augmenter:
    """Makes `Views` of batches.

    Args:
        settings: what happens to the clips.
        rows: of the batch.
        front_end: of the CRNN. ears: of the transformer.
        teacher_hears: "augmented" or "clean", see `ConsistencySettings`.
    """

    settings: AugmentSettings
    rows: Rows
    front_end: DesedMel
    ears: Ears
    teacher_hears: str
    responses: nn.Module | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        wanted = self.settings.impulse_responses
        if wanted is not None:
            self.responses = DeviceImpulseResponses(wanted.folder, SAMPLE_RATE)

    def __call__(self, batch: dict[str, Any], streams: Streams) -> Views:
        """Views of a batch; nothing in it is changed."""
        clean = self._framed(self._heard(batch, streams), streams)
        mixed, mixture = self._mixed(clean, streams)
        common = self._styled(mixed, streams)
        student = self._warped(self._filtered(common, streams["filter"]), streams["warp"])
        if self.teacher_hears == "clean":
            return Views(clean, student, clean, mixture)
        return Views(clean, student, self._filtered(common, streams["filter of the teacher"]), mixture)

    def _heard(self, batch: dict[str, Any], streams: Streams) -> Heard:
        """Features of the waveforms, and labels; what is done to waveforms is done first."""
        settings = self.settings
        waveform, labels = batch["waveform"], [batch[name] for name in ("strong", "pseudo") if name in batch]
        if settings.wavmix is not None:
            waveform, labels = self._wavmixed(waveform, labels, streams)
        if self.responses is not None and settings.impulse_responses is not None:
            self.responses.to(waveform.device)
            every = torch.ones(len(waveform), dtype=torch.bool)
            probability = settings.impulse_responses.probability
            waveform = self.responses(waveform, every, probability, streams["impulse responses"])
        if settings.gain_db:
            waveform = gain(waveform, settings.gain_db, streams["gain"])
        if hasattr(self.ears.front_end, "generator"):
            self.ears.front_end.generator = streams["front end"]
        log_mel = self.ears.front_end(waveform)
        pseudo = labels[1] if len(labels) > 1 else None
        return Heard(self.front_end.magnitude(waveform), log_mel, labels[0], batch["weak"], batch["valid"], pseudo)

    def _wavmixed(self, waveform: Tensor, labels: list[Tensor], streams: Streams) -> tuple[Tensor, list[Tensor]]:
        assert self.settings.wavmix is not None
        waveform, labels = waveform.clone(), [values.clone() for values in labels]
        for kind in ("maestro", "strong", "synthetic"):
            rows = self.rows.kinds[kind]
            if _size(rows) > 1:
                wanted = self.settings.wavmix
                parts = [values[rows] for values in labels]
                mixed, parts = wavmix(
                    waveform[rows], parts, wanted.probability, wanted.alpha, streams[f"wavmix {kind}"]
                )
                waveform[rows] = mixed
                for values, part in zip(labels, parts):
                    values[rows] = part
        return waveform, labels

    def _framed(self, heard: Heard, streams: Streams) -> Heard:
        """Turned and masked in time."""
        wanted, rows = self.settings.time_mask, self.rows.strong
        if self.settings.frame_shift:
            shifts = draw_shifts(len(heard.strong), self.settings.frame_shift, NUM_FRAMES, streams["frame shift"])
            heard = heard.with_frames(_Turn(shifts))
        if wanted is None or not _size(rows):
            return heard
        stretch = stretch_of_frames(NUM_FRAMES, wanted.smallest, wanted.largest, streams["time mask"])
        masked = heard.with_frames(_Blank(rows, *stretch))
        return replace(masked, pseudo=heard.pseudo) if wanted.pseudo_labels == "kept" else masked

    def _mixed(self, heard: Heard, streams: Streams) -> tuple[Heard, Mixture | None]:
        wanted, generator = self.settings.mixup, streams["mixup"]
        if wanted is None or torch.rand((), generator=generator).item() >= wanted.probability:
            return heard, None
        weight, partner = torch.ones(self.rows.count), torch.arange(self.rows.count)
        for rows in self.rows.mixed:
            weight[rows], own = draw_mixup(_size(rows), wanted.alpha, generator, dominant=True)
            partner[rows] = own + rows.start
        mixed = Heard(
            *(mix(values, weight, partner) for values in (heard.magnitude, heard.log_mel, heard.strong, heard.weak)),
            valid=mixed_classes(heard.valid, heard.strong, heard.weak, partner),
            pseudo=None if heard.pseudo is None else mix(heard.pseudo, weight, partner),
        )
        return mixed, Mixture(weight, partner)

    def _styled(self, heard: Heard, streams: Streams) -> Heard:
        """Freq-MixStyle of each kind for itself, drawn for either spectrogram for itself."""
        wanted = self.settings.mixstyle
        if wanted is None:
            return heard
        found = {}
        for name in ("magnitude", "log_mel"):
            generator = streams[f"mixstyle of {name}"]
            parts = [
                freq_mixstyle(getattr(heard, name)[rows], wanted.probability, wanted.alpha, generator, dominant=True)
                for rows in self.rows.present
            ]
            found[name] = torch.cat(parts)
        return replace(heard, **found)

    def _filtered(self, heard: Heard, generator: torch.Generator) -> Heard:
        """Either spectrogram through a filter of its own, drawn one after the other."""
        wanted = self.settings.filter
        if wanted is None:
            return heard
        added = self.ears.per_decibel if wanted.on_log_mels == "add" else None
        magnitude = _filtered(heard.magnitude, wanted, generator, None)
        return replace(heard, magnitude=magnitude, log_mel=_filtered(heard.log_mel, wanted, generator, added))

    def _warped(self, heard: Heard, generator: torch.Generator) -> Heard:
        wanted = self.settings.frequency_warp
        if wanted is None:
            return heard
        parts = []
        for rows in self.rows.present:
            part = heard.log_mel[rows]
            chosen = torch.rand((), generator=generator).item() < wanted.probability
            allowed = wanted.maestro or rows != self.rows.kinds["maestro"]
            parts.append(frequency_warp(part, wanted.smallest, generator) if chosen and allowed else part)
        return replace(heard, log_mel=torch.cat(parts))


def _filtered(
    spectrogram: Tensor, wanted: FilterAugmentSettings, generator: torch.Generator, per_decibel: float | None
) -> Tensor:
    if torch.rand((), generator=generator).item() >= wanted.probability:
        return spectrogram
    clips, _, n_mels, _ = spectrogram.shape
    curve = filter_curve(clips, n_mels, wanted.bands, wanted.min_width, wanted.decibels, generator)
    return colour(spectrogram, curve, per_decibel)


@dataclass(frozen=True)
class _Turn:
    shifts: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        return turn(values, self.shifts)


@dataclass(frozen=True)
class _Blank:
    rows: slice
    first: int
    last: int

    def __call__(self, values: Tensor) -> Tensor:
        changed = values.clone()
        changed[self.rows] = blank(values[self.rows], self.first, self.last, NUM_FRAMES)
        return changed


def _size(rows: slice) -> int:
    return rows.stop - rows.start

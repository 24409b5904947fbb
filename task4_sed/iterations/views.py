"""Inputs of student and teacher in a training step, and the labels that go with them.

The clips of a batch lie in the order maestro, strong, synthetic, weak, unlabelled, so every part is a slice. What is
random is in `Draws`; `Augmenter.views` computes from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.data.transfer import to_device
from common.features.augment import amplify, draw_gain, mix, mix_statistics
from common.features.front_ends import DesedMel, KaldiLogMel
from common.features.impulse_responses import DeviceImpulseResponses
from task4_sed import augment
from task4_sed.augment import Mixture, Streams, blank, colour, decide, roll, warp_frequency, widen_classes
from task4_sed.iterations.settings import KINDS, BatchSettings, StageAugmentSettings
from task4_sed.labels import NUM_FRAMES, POOLING, SAMPLE_RATE

SPECTROGRAMS = ("magnitude", "log_mel")


class Rows:
    """Slices of a batch.

    Attributes:
        kinds: by name. desed: all but MAESTRO. labelled: MAESTRO, strong and synthetic. strong: strong and synthetic.
        groups: labelled, weak and unlabelled clips; clips are mixed within them.
    """

    def __init__(self, batch: BatchSettings):
        self.kinds: dict[str, slice] = {}
        start = 0
        for kind in KINDS:
            count = getattr(batch, kind)
            self.kinds[kind] = slice(start, start + count)
            start += count
        self.count = start
        self.desed = slice(self.kinds["maestro"].stop, start)
        self.labelled = slice(0, self.kinds["synthetic"].stop)
        self.strong = slice(self.kinds["strong"].start, self.kinds["synthetic"].stop)
        self.groups = (self.labelled, self.kinds["weak"], self.kinds["unlabeled"])


@dataclass(frozen=True)
class Features:
    """Spectrograms: magnitude (clips, 1, mels, 626) for the CRNN, before the logarithm; log_mel for the transformer."""

    magnitude: Tensor
    log_mel: Tensor

    def each(self, change: Callable[[str, Tensor], Tensor]) -> "Features":
        """`change` of the name and values of each spectrogram."""
        return Features(*(change(name, getattr(self, name)) for name in SPECTROGRAMS))


@dataclass(frozen=True)
class Targets:
    """Labels of a batch.

    strong, pseudo: (clips, classes, 156), 0..1; pseudo is None without pseudo-labels. weak: (clips, classes).
    valid: (clips, classes), bool.
    """

    strong: Tensor
    weak: Tensor
    valid: Tensor
    pseudo: Tensor | None = None

    def frames(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        """`change` of frame labels and pseudo-labels."""
        return replace(self, strong=change(self.strong), pseudo=None if self.pseudo is None else change(self.pseudo))

    def masked(self) -> "Targets":
        """0 for classes that are not valid."""
        known = self.valid.to(self.strong)
        return replace(self.frames(lambda labels: labels * known[..., None]), weak=self.weak * known)


@dataclass(frozen=True)
class Draws:
    """Random numbers of one step after the waveforms; None or empty where a step is left out.

    shifts: (clips,) label frames. stretch: label frames to mask. mixture: of mixup. styles: of MixStyle, by
    spectrogram. crops: rows, first mel, number of mels. filters, teacher_filters: (clips, mels) dB, by spectrogram.
    """

    shifts: Tensor | None = None
    stretch: tuple[int, int] | None = None
    mixture: Mixture | None = None
    styles: Mapping[str, Mixture] = field(default_factory=dict)
    crops: tuple[tuple[slice, int, int], ...] = ()
    filters: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_filters: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Views:
    """Inputs of student and teacher, targets of the student's clips, and their mixture; None in a step without mixup.

    The valid classes of the targets hold for both networks, also where the teacher hears clean clips, as published.
    """

    student: Features
    teacher: Features
    targets: Targets
    mixture: Mixture | None = None


@dataclass
class Augmenter:
    """Makes `Views` of batches.

    per_decibel: rise of the transformer's features for 1 dB. teacher_hears: see `ConsistencySettings`.
    """

    settings: StageAugmentSettings
    rows: Rows
    front_end: DesedMel
    transformer_front_end: nn.Module
    per_decibel: float
    teacher_hears: str
    responses: DeviceImpulseResponses | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        wanted = self.settings.impulse_responses
        if wanted is not None:
            self.responses = DeviceImpulseResponses(wanted.folder, SAMPLE_RATE)

    def __call__(self, batch: dict[str, Any], streams: Streams) -> Views:
        """Views of a batch, which stays as it is."""
        features = self.features(batch["waveform"], streams)
        targets = Targets(batch["strong"], batch["weak"], batch["valid"], batch.get("pseudo"))
        return self.views(features, targets, self.draw(features, streams))

    def features(self, waveform: Tensor, streams: Streams) -> Features:
        """Spectrograms of (clips, samples), after the steps that change waveforms."""
        settings = self.settings
        responses: tuple[Tensor, Tensor] | None = None
        if self.responses is not None and settings.impulse_responses is not None:
            every = torch.ones(len(waveform), dtype=torch.bool)
            probability = settings.impulse_responses.probability
            responses = self.responses.draw(every, probability, streams["impulse responses"])
        factor = draw_gain(len(waveform), settings.gain_db, streams["gain"])
        responses, factor = to_device((responses, factor), waveform.device)
        if self.responses is not None and responses is not None:
            waveform = self.responses.change(waveform, *responses)
        waveform = amplify(waveform, factor)
        if isinstance(self.transformer_front_end, KaldiLogMel):
            self.transformer_front_end.generator = streams["front end"]
        return Features(self.front_end.magnitude(waveform), self.transformer_front_end(waveform))

    def draw(self, features: Features, streams: Streams) -> Draws:
        """Random numbers of a step; each coin is tossed once for the whole batch."""
        settings, clips = self.settings, self.rows.count
        shifts = stretch = None
        if settings.frame_shift:
            normal = torch.randn(clips, generator=streams["frame shift"])
            shifts = (normal * settings.frame_shift * NUM_FRAMES).trunc().long()
        if (mask := settings.time_mask) is not None:
            stretch = augment.draw_stretch(NUM_FRAMES, mask.smallest, mask.largest, streams["time mask"])
        mixture = None
        if settings.mixup is not None and decide(settings.mixup.probability, generator := streams["mixup"]):
            mixture = self._draw_mixture(settings.mixup.alpha, generator)
        styles = {}
        if settings.mixstyle is not None and decide(settings.mixstyle.probability, generator := streams["mixstyle"]):
            styles = {name: self._draw_mixture(settings.mixstyle.alpha, generator) for name in SPECTROGRAMS}
        crops = self._draw_crops(features.log_mel.shape[2], streams["warp"])
        filters: dict[str, Tensor] = {}
        teacher_filters: dict[str, Tensor] = {}
        if settings.filter is not None and decide(settings.filter.probability, generator := streams["filter"]):
            filters = self._draw_filters(features, generator)
            if self.teacher_hears == "augmented":
                teacher_filters = self._draw_filters(features, streams["filter of the teacher"])
        return Draws(shifts, stretch, mixture, styles, crops, filters, teacher_filters)

    def views(self, features: Features, targets: Targets, draws: Draws) -> Views:
        """Views of features and labels for a draw."""
        steps: dict[str, Tensor] = {}
        if draws.shifts is not None:
            steps = {name: _rescale(draws.shifts, getattr(features, name)) for name in SPECTROGRAMS}
        draws, steps = to_device((draws, steps), features.magnitude.device)
        if (shifts := draws.shifts) is not None:
            features = features.each(lambda name, values: roll(values, steps[name]))
            targets = targets.frames(lambda labels: roll(labels, shifts))
        if draws.stretch is not None:
            features, targets = self._mask_time(features, targets, *draws.stretch)
        clean = features
        if draws.mixture is not None:
            features, targets = self._mix(features, targets, draws.mixture)
        if draws.styles:
            features = features.each(lambda name, values: mix_statistics(values, *draws.styles[name]))
        if draws.crops:
            features = replace(features, log_mel=_warp(features.log_mel, draws.crops))
        student = self._filter(features, draws.filters)
        teacher = clean if self.teacher_hears == "clean" else self._filter(features, draws.teacher_filters)
        return Views(student, teacher, targets.masked(), draws.mixture)

    def _draw_mixture(self, alpha: float, generator: torch.Generator) -> Mixture:
        """Partners within labelled, weak and unlabelled clips."""
        weight, partner = torch.ones(self.rows.count), torch.arange(self.rows.count)
        for rows in self.rows.groups:
            if rows.stop > rows.start:
                drawn = augment.draw_mixture(rows.stop - rows.start, alpha, generator)
                weight[rows], partner[rows] = drawn.weight, drawn.partner + rows.start
        return Mixture(weight, partner)

    def _draw_crops(self, n_mels: int, generator: torch.Generator) -> tuple[tuple[slice, int, int], ...]:
        """One crop each for weak, strong and synthetic, unlabelled and, where included, MAESTRO clips."""
        wanted, kinds = self.settings.frequency_warp, self.rows.kinds
        if wanted is None or not decide(wanted.probability, generator):
            return ()
        parts = [kinds["weak"], self.rows.strong, kinds["unlabeled"], *([kinds["maestro"]] if wanted.maestro else [])]
        return tuple((rows, *augment.draw_crop(n_mels, wanted.smallest, generator)) for rows in parts)

    def _draw_filters(self, features: Features, generator: torch.Generator) -> dict[str, Tensor]:
        wanted = self.settings.filter
        assert wanted is not None
        return {
            name: augment.draw_filter(
                self.rows.count, getattr(features, name).shape[2], wanted.bands, wanted.min_width, wanted.decibels,
                generator,
            )
            for name in (SPECTROGRAMS[:1] if wanted.on_log_mels == "kept" else SPECTROGRAMS)
        }  # fmt: skip

    def _mask_time(self, features: Features, targets: Targets, first: int, last: int) -> tuple[Features, Targets]:
        rows, wanted = self.rows.strong, self.settings.time_mask
        assert wanted is not None
        masked = features.each(lambda name, values: blank(values, *spectrogram_frames(name, values, first, last), rows))
        if wanted.pseudo_labels == "masked":
            return masked, targets.frames(lambda labels: blank(labels, first, last, rows))
        return masked, replace(targets, strong=blank(targets.strong, first, last, rows))

    def _mix(self, features: Features, targets: Targets, mixture: Mixture) -> tuple[Features, Targets]:
        labelled, valid = self.rows.labelled, targets.valid.clone()
        valid[labelled] = widen_classes(targets.valid, targets.strong, mixture.partner)[labelled]
        mixed = targets.frames(lambda labels: mix(labels, *mixture))
        mixed = replace(mixed, weak=mix(targets.weak, *mixture), valid=valid)
        return features.each(lambda _, values: mix(values, *mixture)), mixed

    def _filter(self, features: Features, filters: Mapping[str, Tensor]) -> Features:
        if not filters or self.settings.filter is None:
            return features
        per_decibel = self.per_decibel if self.settings.filter.on_log_mels == "add" else None
        steps: dict[str, float | None] = {"magnitude": None, "log_mel": per_decibel}
        return features.each(
            lambda name, values: colour(values, filters[name], steps[name]) if name in filters else values
        )


def spectrogram_frames(name: str, values: Tensor, first: int, last: int) -> tuple[int, int]:
    """Frames of a spectrogram for label frames first .. last (not included); the transformer's are rounded to even."""
    if name == "magnitude":
        return POOLING * first, POOLING * last
    frames = values.shape[-1]
    return round(first * frames / NUM_FRAMES), round(last * frames / NUM_FRAMES)


def _rescale(shifts: Tensor, values: Tensor) -> Tensor:
    """Label frames as frames of a spectrogram."""
    return (shifts * values.shape[-1] / NUM_FRAMES).round().long()


def _warp(log_mel: Tensor, crops: tuple[tuple[slice, int, int], ...]) -> Tensor:
    warped = log_mel.clone()
    for rows, first, kept in crops:
        warped[rows] = warp_frequency(log_mel[rows], first, kept)
    return warped

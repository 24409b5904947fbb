"""The HEAR 2021 API: embeddings of whole sounds and of timestamps, from MN, DyMN and PaSST.

    model = load_model("", "mn10_all_b_mel_avgs")
    embeddings = get_scene_embeddings(audio, model)
    embeddings, timestamps = get_timestamp_embeddings(audio, model)

EfficientAT_HEAR, hear_mn (arXiv 2303.01879), and hear21passt (arXiv 2211.13956). The sizes of embeddings are measured
on the network; windows are cut as they are needed and run in batches, so that memory does not grow with the clip.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.inference.hear_names import HearName, Level, parse_name
from common.inference.prepare import prepare_for_inference
from common.models.audio_model import AudioModel
from common.models.dynamic_mobilenet import DynamicMobileNet
from common.models.mobilenet import MobileNet, SqueezeExcitation
from common.models.network import choose_device
from common.registry import load_audio_model

TIMESTAMP_HOP = 0.05  # seconds
SECONDS_AT_ONCE = 40.0  # of audio in one batch of windows

POOLING = {
    "avg": lambda maps: maps.mean(dim=(2, 3)),
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "add_avg_max": lambda maps: maps.mean(dim=(2, 3)) + maps.amax(dim=(2, 3)),
    "cat_avg_max": lambda maps: torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1),
    "avg_time": lambda maps: maps.mean(dim=3).flatten(1),
    "avg_max_time": lambda maps: (maps.mean(dim=3) + maps.amax(dim=3)).flatten(1),
}


class LayerFeatures(nn.Module):
    """Outputs of chosen layers of a model, joined to one vector; `pooling` is of the maps of blocks.

    Parts are mel_avgs (spectrogram, mean over time), clf1 (pooled last convolution), clf2 (first layer of the head,
    before its activation), logits, embedding, seN (squeezed channels of block N, before their activation), bN (pooled
    output of block N; 0 is the stem).
    """

    def __init__(self, model: AudioModel, parts: tuple[str, ...], pooling: str = "avg"):
        super().__init__()
        self.model, self.parts, self.pool = model, parts, POOLING[pooling]
        self.kept: dict[str, Tensor] = {}
        for part in parts:
            if part not in ("clf1", "logits", "embedding"):
                _layer(model, part).register_forward_hook(partial(self._keep, part))

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) to (batch, size), float32. Zeros follow a clip that is too short for the model."""
        missing = round(self.model.windows.shortest * self.model.sample_rate) - waveform.shape[1]
        output = self.model.run(F.pad(waveform, (0, missing)) if missing > 0 else waveform)
        features = {"clf1": output.embedding, "embedding": output.embedding, "logits": output.logits}
        for part, values in self.kept.items():
            if part == "mel_avgs":
                features[part] = values.mean(dim=(1, 3))
            else:
                features[part] = self.pool(values) if part.startswith("b") else values
        self.kept.clear()
        return torch.cat([cast(Tensor, features[part]) for part in self.parts], dim=1).float()

    def _keep(self, part: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.kept[part] = output


class HearModel(nn.Module):
    """A model with the attributes that HEAR asks for: sample_rate, scene_embedding_size, timestamp_embedding_size."""

    def __init__(self, model: AudioModel, name: HearName):
        super().__init__()
        self.features = LayerFeatures(model, name.parts, name.pooling)
        self.name = name
        self.sample_rate = model.sample_rate
        with torch.inference_mode():
            silence = torch.zeros(1, self._samples(1.0), device=self.device)
            self.scene_embedding_size = self.features(silence[:, : self._window(Level(0.16))]).shape[1]
            sizes = [self._embed(silence[:, : self._window(level)], level).shape[1] for level in name.levels]
        self.timestamp_embedding_size = sum(sizes)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.features.parameters()).device

    def scene(self, audio: Tensor) -> Tensor:
        """(sounds, samples) to (sounds, scene_embedding_size): at once, or the mean over windows of a long clip."""
        longest = Level(self.name.scene_window)
        if audio.shape[1] <= self._window(longest):
            return torch.cat([self._embed(part, longest) for part in audio.split(self._at_once(audio.shape[1]))])
        batches = self._windows(audio, longest, self._samples(self.name.scene_hop))
        total = torch.zeros(audio.shape[0], self.scene_embedding_size, dtype=torch.float64)
        count = 0
        for embeddings in batches:
            total += embeddings.sum(dim=1, dtype=torch.float64).cpu()
            count += embeddings.shape[1]
        return (total / count).float()

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(sounds, samples) to (sounds, timestamps, timestamp_embedding_size) and milliseconds (sounds, timestamps)."""
        hop = self._samples(TIMESTAMP_HOP)
        levels = [
            torch.cat([part.cpu() for part in self._windows(audio, level, hop)], dim=1) for level in self.name.levels
        ]
        embeddings = torch.cat(levels, dim=2)
        times = torch.arange(embeddings.shape[1]) * (hop * 1000.0 / self.sample_rate)
        return embeddings, times.expand(len(audio), -1)

    def _windows(self, audio: Tensor, level: Level, hop: int) -> Iterator[Tensor]:
        """Embeddings (sounds, windows, size) of consecutive windows around every `hop` samples, in batches.

        The clip is continued by reflection on both sides, as often as needed for clips shorter than half a window.
        """
        sounds, samples = audio.shape
        window = self._window(level)
        half = window // 2
        count = (samples + 2 * half - window) // hop + 1
        within = torch.arange(window, device=audio.device)
        step = max(1, self._at_once(window) // sounds)
        for first in range(0, count, step):
            starts = torch.arange(first, min(first + step, count), device=audio.device) * hop - half
            cut = audio[:, _reflected(starts[:, None] + within, samples)]
            yield self._embed(cut.flatten(0, 1), level).unflatten(0, (sounds, -1))

    def _embed(self, waveform: Tensor, level: Level) -> Tensor:
        waveform = waveform.to(self.device, torch.float32)
        if level.samples:
            return self.features.model.front_end(waveform).flatten(1)
        return self.features(waveform)

    def _window(self, level: Level) -> int:
        return level.samples or self._samples(level.window)

    def _at_once(self, window: int) -> int:
        return max(1, int(SECONDS_AT_ONCE * self.sample_rate / window))

    def _samples(self, seconds: float) -> int:
        return int(round(seconds * 1000) * self.sample_rate / 1000)


def load_model(model_file_path: str | Path = "", name: str = "mn10_all_b_mel_avgs", mode: str = "all") -> HearModel:
    """A HEAR model, on the GPU where there is one; `name` and `mode` as in `hear_names.parse_name`.

    `model_file_path` is a file of released weights, "" the registered one (cache, or download).
    """
    parsed = parse_name(name, mode)
    model = prepare_for_inference(load_audio_model(parsed.model, weights=model_file_path or None))
    return HearModel(model.to(choose_device()), parsed)


@torch.inference_mode()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding for each sound: audio (sounds, samples), -1..1, at `model.sample_rate`, of any length but 0.

    Returns:
        (sounds, model.scene_embedding_size), float32, on the device of `audio`.
    """
    return model.eval().scene(_checked(audio)).to(audio.device)


@torch.inference_mode()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """An embedding every 50 ms; arguments as for `get_scene_embeddings`.

    Returns:
        Embeddings (sounds, timestamps, model.timestamp_embedding_size) and the centres of their windows in milliseconds
        (sounds, timestamps); both float32, on the CPU.
    """
    return model.eval().timestamps(_checked(audio))


def _checked(audio: Tensor) -> Tensor:
    if audio.ndim != 2 or 0 in audio.shape:
        raise ValueError(f"audio is (sounds, samples) with at least one sample, not {tuple(audio.shape)}")
    return audio


def _reflected(index: Tensor, samples: int) -> Tensor:
    """Positions of any size folded back into 0..samples - 1 by reflection at both ends."""
    period = max(1, 2 * (samples - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index) if samples > 1 else torch.zeros_like(index)


def _layer(model: AudioModel, part: str) -> nn.Module:
    """The layer that computes a part."""
    if part == "mel_avgs":
        return model.front_end
    network = model.network
    if not isinstance(network, MobileNet | DynamicMobileNet):
        raise UserError(f"{part} is a layer of MN and DyMN; {model.name} has none.")
    if part == "clf2":
        head = network.classifier
        if not isinstance(head, nn.Sequential) or not isinstance(head[2], nn.Linear):
            raise UserError(f"clf2 is a layer of the mlp head; {model.name} has another head.")
        return head[2]
    if isinstance(network, MobileNet):
        stages = list(network.features)
    else:
        stages = [network.in_c, *network.layers, network.out_c]
    number = int(part.lstrip("bse"))
    if number >= len(stages):
        raise UserError(f"{part} is no block of {model.name}; there are 0 (the stem) to 15.")
    if part.startswith("b"):
        return stages[number]
    for layer in stages[number].modules():
        if isinstance(layer, SqueezeExcitation) and layer.others == [2, 3]:
            return layer.fc1
    raise UserError(f"Block {number} of {model.name} has no squeeze and excitation of channels, so no {part}.")

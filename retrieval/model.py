"""Dual encoder: clips and captions as vectors of one space, compared by cosine."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from common.models.audio_model import AudioModel
from common.models.text import TextEncoder
from common.registry import load_audio_model
from common.registry.models import create_audio_model
from common.training.checkpoints import read_weights
from retrieval.data.clips import CaptionedClips, evaluation_loader
from retrieval.settings import AudioEncoder, Model, TextEncoderSettings


def projection(in_features: int, out_features: int, hidden_layers: int = 0, hidden_features: int = 2048) -> nn.Module:
    """One linear layer (as the 2024 winner), or an MLP with ReLU for `hidden_layers` > 0."""
    layers: list[nn.Module] = []
    for _ in range(hidden_layers):
        layers += [nn.Linear(in_features, hidden_features), nn.ReLU()]
        in_features = hidden_features
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


class DualEncoder(nn.Module):
    """Audio encoder over windows and text encoder, each with a projection to one space.

    "Estimated Audio-Caption Correspondences Improve Language-Based Audio Retrieval" (DCASE workshop 2024).

    Args:
        audio: any audio model; the vector of a clip is the mean over its windows, or over the frames of a frame model.
        audio_dim: size of the audio model's embedding.
        hidden_layers: of both projections; 0 as published.
        temperature: divides the cosines in the losses; trained with `learn_temperature`.
    """

    def __init__(
        self,
        audio: AudioModel,
        text: TextEncoder,
        audio_dim: int,
        dim: int = 1024,
        hidden_layers: int = 0,
        temperature: float = 0.05,
        learn_temperature: bool = False,
    ):
        super().__init__()
        self.audio, self.text = audio, text
        self.sample_rate = audio.sample_rate
        self.project_audio = projection(audio_dim, dim, hidden_layers)
        self.project_text = projection(text.dim, dim, hidden_layers)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)), requires_grad=learn_temperature)

    def encode_windows(self, windows: Tensor) -> Tensor:
        """(windows, samples) to (windows, steps, audio_dim): the frames of a frame model, otherwise one step."""
        output = self.audio(windows)
        return output.embedding[:, None] if output.frames is None else output.frames

    def embed_audio(self, windows: Tensor, clip: Tensor, samples: Tensor) -> Tensor:
        """Windows to one unit vector per clip.

        Args:
            windows: (windows, samples), the windows of a clip one after another.
            clip: (windows,), clip of each window, in rising order from 0.
            samples: (clips,), samples of each clip before it was padded.

        Returns:
            (clips, dim), unit length.
        """
        vectors = mean_over_signal(self.encode_windows(windows), clip, samples, windows.shape[1])
        return functional.normalize(self.project_audio(vectors), dim=1)

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        """Captions to (captions, dim), unit length."""
        return functional.normalize(self.project_text(self.text(captions)), dim=1)


def mean_over_signal(steps: Tensor, clip: Tensor, samples: Tensor, window: int) -> Tensor:
    """Mean over the steps of each clip that hold signal; steps of padding alone do not count.

    Args:
        steps: (windows, steps, dim).
        clip, samples: as for `DualEncoder.embed_audio`.
        window: samples of a window.

    Returns:
        (clips, dim).
    """
    per_window = steps.shape[1]
    place = torch.arange(len(clip), device=clip.device) - torch.searchsorted(clip, clip)  # of a window in its clip
    step = place[:, None] * per_window + torch.arange(per_window, device=clip.device)
    counted = step * window < (samples * per_window)[clip][:, None]  # a step counts from its first sample on
    total = steps.new_zeros(len(samples), steps.shape[2])
    total = total.index_add(0, clip, (steps * counted[..., None].to(steps)).sum(dim=1))
    count = torch.zeros_like(samples).index_add(0, clip, counted.sum(dim=1))
    return total / count.to(total)[:, None]


def make_model(settings: Model) -> DualEncoder:
    """A dual encoder with the weights that the settings name; random numbers come from torch's global generator."""
    audio = make_audio_encoder(settings.audio)
    with torch.inference_mode():
        output = audio.eval()(torch.zeros(1, audio.sample_rate))
    audio_dim = (output.embedding if output.frames is None else output.frames).shape[-1]
    options = settings.model_dump(exclude={"audio", "text"})
    model = DualEncoder(audio, make_text_encoder(settings.text), audio_dim, **options)
    # Parameters without influence on embeddings, such as a classifier's, are frozen: DDP waits for every gradient.
    rate = audio.sample_rate
    vectors = model.eval().embed_audio(torch.zeros(1, rate), torch.tensor([0]), torch.tensor([rate]))
    (vectors.sum() + model.embed_text(["a sound"]).sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None and name != "temperature":
            parameter.requires_grad_(False)
        parameter.grad = None
    return model


def make_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """The text encoder of the settings; frozen where they say so."""
    encoder = TextEncoder(**settings.model_dump(exclude={"model", "frozen"}), name=settings.model)
    if settings.frozen:
        encoder.freeze()
    return encoder


def make_audio_encoder(settings: AudioEncoder) -> AudioModel:
    """The audio model of the settings."""
    if settings.weights == "random":
        model = create_audio_model(settings.model, **settings.options)
    else:
        model = load_audio_model(settings.model, None if settings.weights == "released" else Path(settings.weights))
        if settings.options:
            trained = model.network.state_dict()
            model.network = create_audio_model(settings.model, **settings.options).network
            model.network.load_state_dict(trained)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and settings.norm_momentum is not None:
            module.momentum = settings.norm_momentum
    return model


def load_checkpoint(model: DualEncoder, path: Path) -> None:
    """Load the weights of a training's checkpoint; a frozen text encoder keeps its own."""
    weights = read_weights(path, prefix="model.")
    if model.text.frozen:
        weights |= {name: value for name, value in model.state_dict().items() if name.startswith("text.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path} holds another model than the settings describe: {error}") from error


@torch.inference_mode()
def embed_clips(model: DualEncoder, clips: CaptionedClips, batch_size: int) -> Tensor:
    """Every clip to a unit vector: (clips, dim) on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for batch in evaluation_loader(clips, batch_size):
        inputs = (batch[name].to(device) for name in ("windows", "window_clip", "samples"))
        parts.append(model.embed_audio(*inputs).float().cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_captions(model: DualEncoder, captions: Sequence[str], batch_size: int = 64) -> Tensor:
    """Captions to unit vectors: (captions, dim) on the CPU."""
    model.eval()
    vectors = model.text.encode(captions, batch_size).to(next(model.parameters()).device)
    return functional.normalize(model.project_text(vectors), dim=1).float().cpu()

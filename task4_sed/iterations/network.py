"""The network of the winner of 2024: the baseline's CRNN around a transformer, both at 16 kHz."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.features.front_ends import DesedMel
from common.models.crnn import Crnn
from common.models.frame_prediction import SequenceModel
from common.models.network import ModelOutput
from common.registry.models import create_front_end
from task4_sed.data.embeddings import load_frame_model
from task4_sed.iterations.settings import OptimSettings, StageSettings, TransformerSettings, TwoIterations
from task4_sed.labels import SAMPLE_RATE
from task4_sed.mean_teacher.detector import Batch, Detector

FINAL_NORMS = ("norm_frame", "norm")
"""Names of the norm after the last block: of ATST-F, of fPaSST; BEATs has none."""


class TransformerCrnn(nn.Module):
    """A CRNN that reads a spectrogram and, beside it, the frames of a transformer.

    Args:
        crnn: made for frames of the width that the projection (or the transformer) gives.
        transformer: spectrogram to a sequence (batch, tokens, dim).
        projection: between the two; None gives the CRNN the frames as they are.
        frozen: the transformer is not trained, stays in evaluation mode and is shared by student and teacher.
    """

    def __init__(self, crnn: Crnn, transformer: SequenceModel, projection: nn.Linear | None, frozen: bool):
        super().__init__()
        self.crnn = crnn
        self.transformer = transformer
        self.projection = projection
        self.frozen = frozen
        transformer.requires_grad_(not frozen)
        for name in getattr(transformer, "unused_parameters", ()):
            transformer.get_parameter(name).requires_grad_(False)

    def sequence(self, log_mel: Tensor) -> Tensor:
        """(batch, 1, mels, frames) to the transformer's own (batch, tokens, dim)."""
        if self.frozen:
            with torch.no_grad():
                return self.transformer(log_mel)
        return self.transformer(log_mel)

    def project(self, sequence: Tensor) -> Tensor:
        """The transformer's sequence to the CRNN's second input, (batch, dim, tokens)."""
        return (sequence if self.projection is None else self.projection(sequence)).mT

    def tokens(self, log_mel: Tensor) -> Tensor:
        """(batch, 1, mels, frames) to the CRNN's second input, (batch, dim, tokens)."""
        return self.project(self.sequence(log_mel))

    def read(self, spectrogram: Tensor, log_mel: Tensor) -> Tensor:
        """Input of the heads, (batch, 156, 2 * rnn_dim)."""
        return self.crnn.read(spectrogram, self.tokens(log_mel))

    def forward(self, spectrogram: Tensor, log_mel: Tensor, class_mask: Tensor | None = None) -> ModelOutput:
        """Scores before the sigmoid, see `Crnn.forward`."""
        return self.crnn.score(self.read(spectrogram, log_mel), class_mask)

    def train(self, mode: bool = True) -> "TransformerCrnn":
        """A frozen transformer stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.transformer.train(False)
        return self

    def parts_in_common(self) -> tuple[nn.Module, ...]:
        """Modules that student and teacher share: a frozen transformer."""
        return (self.transformer,) if self.frozen else ()


def make_network(settings: TwoIterations, name: str, stage: StageSettings, released: bool = True) -> TransformerCrnn:
    """The network of one training: a random CRNN around the transformer as its authors released it, or a random one."""
    own = settings.transformers[name]
    transformer = load_transformer(name, own if released else own.model_copy(update={"untrained": True}))
    width = transformer.dim
    projection = None
    if own.projection is not None:
        projection = nn.Linear(width, own.projection.dim).requires_grad_(own.projection.trained)
        width = own.projection.dim
    options = settings.crnn.model_dump(exclude={"name"}) | {"dropout": stage.dropout, "aggregation": own.aggregation}
    crnn = Crnn(num_classes=len(settings.labels.classes), embedding_dim=width, **options)
    return TransformerCrnn(crnn, transformer, projection, frozen=stage.optim.transformer_lr is None)


class StageDetector(Detector):
    """Student and teacher of one training; the transformer has its `released` weights, or random ones."""

    student: TransformerCrnn
    teacher: TransformerCrnn | None

    def __init__(self, settings: TwoIterations, name: str, stage: StageSettings, released: bool = True):
        super().__init__(settings, make_network(settings, name, stage, released), settings.teacher)
        self.stage = stage
        self.front_end = DesedMel(n_mels=settings.front_end.n_mels)
        self.transformer_front_end = create_front_end(settings.transformers[name].model, **stage.front_end)

    @torch.no_grad()
    def detect(self, batch: Batch, student: bool, masked: bool = True) -> ModelOutput:
        """Output of student or teacher for a batch as it is; `masked` hides classes that are not valid for a clip."""
        network = self.student if student or self.teacher is None else self.teacher
        spectrogram, log_mel = self.front_end(batch["waveform"]), self.transformer_front_end(batch["waveform"])
        return network(spectrogram, log_mel, batch["valid"] if masked else None)


def load_transformer(name: str, settings: TransformerSettings) -> SequenceModel:
    """The encoder alone, without heads."""
    try:
        model = load_frame_model(settings)
    except UserError as error:
        raise UserError(f"The transformer {name} could not be loaded: {error}") from error
    encoder = getattr(model.network, "model", None)
    if not isinstance(encoder, SequenceModel) or model.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"transformers.{name}.model is {settings.model}, which is no frame model at 16 kHz; take atst_frame, "
            "fpasst or beats."
        )
    for module in encoder.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = settings.checkpointing  # type: ignore[assignment]
    return encoder


def make_optimizer(network: TransformerCrnn, optim: OptimSettings) -> torch.optim.Optimizer:
    """AdamW or Adam over `parameter_groups`."""
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return kind(parameter_groups(network, optim), betas=(0.9, 0.999), weight_decay=optim.weight_decay)


def parameter_groups(network: TransformerCrnn, optim: OptimSettings) -> list[dict[str, Any]]:
    """Groups for the optimiser: convolutions, everything above them, and the transformer from the top down.

    The transformer's group i has the rate transformer_lr * layer_decay^i: final norm (empty for BEATs), each block, the
    last first, then everything before the blocks.
    """
    cnn = list(network.crnn.cnn.parameters())
    above = [p for key, p in network.crnn.named_parameters() if not key.startswith("cnn.")]
    if network.projection is not None:
        above += network.projection.parameters()
    groups: list[dict[str, Any]] = [{"params": cnn, "lr": optim.cnn_lr}, {"params": above, "lr": optim.rnn_lr}]
    if optim.transformer_lr is not None:
        for number, parameters in enumerate(decay_groups(network.transformer)):
            groups.append({"params": parameters, "lr": optim.transformer_lr * optim.layer_decay**number})
    trained = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    return [group for group in trained if group["params"]]


def decay_groups(transformer: SequenceModel) -> list[list[nn.Parameter]]:
    """Parameters of a transformer from the top: final norm, 12 blocks, the rest; 14 groups for 12 blocks."""
    norms = [getattr(transformer, name) for name in FINAL_NORMS if hasattr(transformer, name)]
    final = [parameter for norm in norms for parameter in norm.parameters()]
    known = {id(parameter) for parameter in final}
    last, *others = transformer.layer_groups()
    return [final, [p for p in last if id(p) not in known], *others]


def batch_norms(network: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """All batch norms of a network."""
    return (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))

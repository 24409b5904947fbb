"""Memory of a training, estimated before it starts by following shapes through the network, without numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from common.data.files import human_size
from common.errors import UserError
from task4_sed.iterations.network import TransformerCrnn
from task4_sed.iterations.train import StageTraining
from task4_sed.labels import CLIP_SAMPLES

FOLLOWED = (2, 3)
"""Numbers of clips that are followed through the network. What the larger one keeps more is kept of each clip; the rest
is weights, which count elsewhere."""
GRU_VALUES = 6
"""Values that a GRU keeps for each cell and step."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device.

    weights: of student and teacher. gradients, optimiser: of trained weights. activations: kept for the backward pass.
    batch: waveforms and features of student and teacher.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.batch

    def sentence(self, clips: int) -> str:
        """The estimate for the log."""
        return (
            f"about {human_size(self.total)} for {clips} clips at a time (weights {human_size(self.weights)}, "
            f"gradients, optimiser {human_size(self.gradients + self.optimiser)}, activations "
            f"{human_size(self.activations)}, features {human_size(self.batch)})"
        )


def refuse_large(memory: MemoryEstimate, name: str) -> None:
    """Refuse a training that does not fit on the GPU, before hours are spent."""
    available = torch.cuda.get_device_properties(0).total_memory
    if memory.total > available:
        raise UserError(
            f"{name} needs about {human_size(memory.total)}, but the GPU has {human_size(available)}. Halve the "
            "counts of its batch and double accumulate, or set checkpointing true for its transformer, or 16-mixed "
            "precision."
        )


def estimate_training(module: StageTraining, precision: str) -> MemoryEstimate:
    """Memory of a training on each device, without that of the libraries (some 0.5 GB on a GPU).

    Mixed precisions keep most activations in 2 bytes. The teacher has its own copy of trained weights, no gradients.
    """
    network, count = module.student, module.rows.count
    silence = torch.zeros(1, CLIP_SAMPLES)
    features = module.front_end(silence), module.transformer_front_end(silence)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    stored = sum(p.numel() * p.element_size() for p in network.parameters())
    own = stored - sum(p.numel() * p.element_size() for part in network.parts_in_common() for p in part.parameters())
    fewer, more = (_kept_bytes(network, features, clips, precision) for clips in FOLLOWED)
    halves = 0 if precision == "32-true" else stored // 2  # autocast keeps weights in half precision for a step
    clip_bytes = sum(values.numel() * values.element_size() for values in features)
    return MemoryEstimate(
        weights=stored + own,
        gradients=4 * trained,
        optimiser=8 * trained,
        activations=(more - fewer) * count // (FOLLOWED[1] - FOLLOWED[0]) + halves,
        # clean, mixed and coloured features, and those of the teacher
        batch=count * (4 * clip_bytes + 2 * 4 * CLIP_SAMPLES),
    )


def _kept_bytes(network: TransformerCrnn, features: tuple[Tensor, Tensor], clips: int, precision: str) -> int:
    """Bytes kept by the forward pass of some clips for the backward pass, weights among them."""
    crnn = network.crnn
    dtype = {"16-mixed": torch.bfloat16, "bf16-mixed": torch.bfloat16}.get(precision)
    was_training = network.training
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # or the memory of a tensor would be given to another one

    def keep(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(values)
        return values

    network.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            spectrogram, log_mel = (mode.from_tensor(values).expand(clips, -1, -1, -1).clone() for values in features)
            autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype is not None)
            with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
                read = crnn.fuse(crnn.cnn(spectrogram.mT).squeeze(-1).mT, network.tokens(log_mel))
    finally:
        network.train(was_training)
    # Following recurrent layers step by step would take long: gates, states and outputs of each step and direction.
    rnn = crnn.rnn.rnn
    cells = rnn.hidden_size * rnn.num_layers * 2
    return sum(kept.values()) + clips * read.shape[1] * cells * GRU_VALUES * read.element_size()

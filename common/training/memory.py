"""Memory of a training, estimated before it starts by following shapes through the network, without numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from common.data.files import human_size
from common.errors import UserError

FOLLOWED = (2, 3)
"""Numbers of clips that are followed through the network. What the larger one keeps more is kept of each clip; the rest
is weights, which count elsewhere."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step on one device, without the libraries (some 0.5 GB on a GPU).

    weights: of all networks. gradients, optimiser: of trained weights. activations: kept for the backward pass.
    batch: waveforms and features.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    batch: int

    @classmethod
    def of(
        cls, network: nn.Module, activations: int, batch: int, precision: str, other_weights: int = 0
    ) -> "MemoryEstimate":
        """Estimate for a network under AdamW; `other_weights`: bytes of networks that are not trained, as a teacher."""
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        stored = sum(p.numel() * p.element_size() for p in network.parameters())
        halves = 0 if precision == "32-true" else stored // 2  # autocast keeps weights in half precision for a step
        return cls(stored + other_weights, 4 * trained, 8 * trained, activations + halves, batch)

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


def refuse_large(memory: MemoryEstimate, name: str, advice: str) -> None:
    """Refuse a training that does not fit on the GPU, before hours are spent; `advice` completes the sentence."""
    available = torch.cuda.get_device_properties(0).total_memory
    if memory.total > available:
        raise UserError(
            f"{name} needs about {human_size(memory.total)}, but the GPU has {human_size(available)}. {advice}"
        )


def activations_per_clip(
    network: nn.Module, inputs: Sequence[Tensor], forward: Callable[..., Any], precision: str
) -> int:
    """Bytes that the forward pass keeps of each clip for the backward pass, in training mode.

    Mixed precisions keep most of them in 2 bytes.

    Args:
        inputs: of one clip, (1, ...) each.
        forward: the pass, of inputs of several clips. Where it gives an integer, these are bytes that no tensor shows.
    """
    fewer, more = (_kept_bytes(network, inputs, forward, clips, precision) for clips in FOLLOWED)
    return (more - fewer) // (FOLLOWED[1] - FOLLOWED[0])


def _kept_bytes(
    network: nn.Module, inputs: Sequence[Tensor], forward: Callable[..., Any], clips: int, precision: str
) -> int:
    was_training = network.training
    kept: dict[int, int] = {}
    alive: list[Any] = []  # or the memory of a tensor would be given to another one

    def keep(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        alive.append(values)
        return values

    network.train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            batch = [mode.from_tensor(part).expand(clips, *part.shape[1:]).clone() for part in inputs]
            autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "32-true")
            with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
                unseen = forward(*batch)
    finally:
        network.train(was_training)
    return sum(kept.values()) + (unseen if isinstance(unseen, int) else 0)

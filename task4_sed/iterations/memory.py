"""Memory of a training of a stage."""

import torch
from torch import Tensor

from common.training.memory import MemoryEstimate, activations_per_clip
from task4_sed.iterations.train import StageTraining
from task4_sed.labels import CLIP_SAMPLES

GRU_VALUES = 6
"""Values that a GRU keeps for each cell and step."""
ADVICE = (
    "Halve the counts of its batch and double accumulate, or set checkpointing true for its transformer, or 16-mixed "
    "precision."
)


def estimate_training(module: StageTraining, precision: str) -> MemoryEstimate:
    """Memory on each device. The teacher has its own copy of trained weights, no gradients."""
    network, count = module.student, module.rows.count
    silence = torch.zeros(1, CLIP_SAMPLES)
    features = module.front_end(silence), module.transformer_front_end(silence)

    def forward(spectrogram: Tensor, log_mel: Tensor) -> int:
        crnn = network.crnn
        read = crnn.fuse(crnn.cnn(spectrogram.mT).squeeze(-1).mT, network.tokens(log_mel))
        # Following recurrent layers step by step would take long: gates, states and outputs of each step and direction.
        rnn = crnn.rnn.rnn
        cells = rnn.hidden_size * rnn.num_layers * 2
        return len(read) * read.shape[1] * cells * GRU_VALUES * read.element_size()

    shared = {id(p) for part in network.parts_in_common() for p in part.parameters()}
    clip_bytes = sum(values.numel() * values.element_size() for values in features)
    return MemoryEstimate.of(
        network,
        count * activations_per_clip(network, features, forward, precision),
        # clean, mixed and coloured features, and those of the teacher
        count * (4 * clip_bytes + 2 * 4 * CLIP_SAMPLES),
        precision,
        other_weights=sum(p.numel() * p.element_size() for p in network.parameters() if id(p) not in shared),
    )

"""Seeds of a run, of its steps and of their augmentation. No Lightning, which takes seconds to import."""

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


def derive_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as (seed, step); near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def step_generator(module: "LightningModule", seed: int, batch_index: int) -> torch.Generator:
    """CPU generator for the augmentation of one training step: the same for the same seed, step and process."""
    numbers = (seed, module.global_step, batch_index, module.global_rank, 1)
    return torch.Generator().manual_seed(derive_seed(*numbers))


def seed_all(*numbers: int) -> None:
    """Seed the global generators of torch, numpy and random, before weights are drawn or within a step."""
    seed = derive_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)

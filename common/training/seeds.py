"""Seeds derived from (seed, step), so that a resumed run equals an uninterrupted one."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer


def derive_seed(*numbers: int) -> int:
    """One seed out of several numbers, such as (seed, step); near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def step_generator(module: LightningModule, seed: int, batch_index: int) -> torch.Generator:
    """CPU generator for the augmentation of one training step: the same for the same seed, step and process."""
    numbers = (seed, module.global_step, batch_index, module.global_rank, 1)
    return torch.Generator().manual_seed(derive_seed(*numbers))


def seed_all(*numbers: int) -> None:
    """Seed the global generators of torch, numpy and random, before weights are drawn or within a step."""
    seed = derive_seed(*numbers)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class StepSeeds(Callback):
    """Sets the global seeds before each training step from (seed, step), so that dropout and the like can resume."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        seed_all(self.seed, trainer.global_step, batch_idx, trainer.global_rank)

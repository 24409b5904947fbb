"""The estimate of the memory of a step."""

import pytest
import torch

from task4_sed.augment import Streams
from task4_sed.iterations.memory import estimate_training
from task4_sed.iterations.train import StageTraining
from tests.support.allocations import allocations
from tests.support.quick_iterations import BATCH, batch_of, everything_on


def test_memory_grows_with_the_clips_and_shrinks_with_checkpointing_and_half_precision(quick):
    deep = {"dim": 96, "depth": 8, "num_heads": 2}
    whole = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2), "32-true")
    saved = quick(transformers__atst__options=deep, transformers__atst__checkpointing=True)
    less = estimate_training(StageTraining(saved, "atst", 1, 2), "32-true")
    half = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2), "16-mixed")
    assert less.activations < 0.6 * whole.activations
    assert half.activations < 0.7 * whole.activations
    frozen = estimate_training(StageTraining(quick(transformers__atst__options=deep), "atst", 1, 1), "32-true")
    assert frozen.activations < whole.activations
    assert frozen.optimiser < 0.1 * whole.optimiser
    module = StageTraining(quick(transformers__atst__options=deep), "atst", 1, 2)
    parameters = sum(p.numel() for p in module.student.parameters())
    assert whole.weights == 2 * 4 * parameters
    doubled = {kind: 2 * count for kind, count in BATCH.items()}
    more = quick(transformers__atst__options=deep, stage2__batch=doubled)
    assert estimate_training(StageTraining(more, "atst", 1, 2), "32-true").activations == pytest.approx(
        2 * whole.activations, rel=0.1
    )


@pytest.mark.parametrize(
    "name", ["atst", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fpasst", "beats"))]
)
def test_the_estimate_of_memory_is_what_the_tensors_of_a_step_take(quick, name):
    module = StageTraining(quick(stage2__augment=everything_on()), name, 1, 2).train()
    batch = batch_of(module.settings)
    views, most, left = allocations(lambda: module.views(batch, Streams(1)))
    loss, in_losses, kept = allocations(lambda: torch.stack(list(module.losses(views, 100).values())).sum())
    loss.backward()
    memory = estimate_training(module, "32-true")
    assert memory.activations == pytest.approx(kept, rel=0.15)
    peak = max(most, left + in_losses)
    assert 0.9 * peak < memory.activations + memory.batch < 1.5 * peak  # nearer where networks are wider

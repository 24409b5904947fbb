"""The estimate of the memory of a pre-training step."""

import pytest

from tests.gpu.steps import attach, frames
from tests.support.allocations import allocations


@pytest.mark.parametrize("name", ["atst_frame", "beats"])
def test_the_estimate_is_what_the_tensors_of_a_step_take(name):
    module, batch = frames(False, name, clips=4)
    loss, _, kept = allocations(lambda: attach(module).training_step(batch, 0))
    loss.backward()
    memory = module.estimate_memory(4, "32-true")
    assert kept / 1.3 < memory.activations + memory.batch < 1.5 * kept
    assert module.estimate_memory(8, "32-true").activations == 2 * memory.activations

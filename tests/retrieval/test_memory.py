"""The estimate of the memory of a step of retrieval."""

from types import SimpleNamespace

from tests.gpu.steps import attach, pairs
from tests.support.allocations import allocations


def test_the_estimate_is_what_the_tensors_of_a_step_take():
    module, batch = pairs(False, taught=False)
    module.training_settings = module.training_settings.model_copy(update={"pairs_per_batch": 4})
    loss, _, kept = allocations(lambda: attach(module).training_step(batch, 0))
    loss.backward()
    memory = module.estimate_memory(SimpleNamespace(max_duration=2.0, window=1.0), "32-true")
    assert kept / 1.3 < memory.activations + memory.batch < 1.5 * kept

"""Bytes that tensors take on the processor while something is done."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def allocations(call: Callable[[], Any]) -> tuple[Any, int, int]:
    """What a call gives, the most bytes that it held at once, and those that it left behind (below 0: it gave back)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        result = call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return result, most, held

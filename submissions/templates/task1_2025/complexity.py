"""Multiply-accumulates and bytes of each device's network. Of 8-bit networks the packed weights are counted.

The official complexity.py counts 0 bytes and 0 MACs for a statically quantised PyTorch network; this one does not.
"""

from pathlib import Path
from typing import Any

DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10")


def measure(module: Any) -> dict[str, Any]:
    """The content of complexity.json for a system's module."""
    clip = Path(module.__file__).parent / "resources" / "dummy.wav"
    model = module.load_model()
    per_device = {}
    for device in DEVICES:
        (spectrogram,) = module.load_inputs([clip], [device], model)
        logits = module.get_model_for_device(model, device)(spectrogram)
        if tuple(logits.shape) != (1, 10):
            raise SystemExit(f"The network for device {device} gives {tuple(logits.shape)}, expected (1, 10).")
        per_device[device] = module.complexity(model, device)
    most = {f"max_{key}": max(figures[key] for figures in per_device.values()) for key in ("MACs", "Params")}
    return {"per_device": per_device, **most}

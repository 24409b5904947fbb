"""What a module of an inference package gives. Runs in a process and a copy of its own; see `trial.py`.

python trial_program.py PACKAGE MODULE DEVICES(JSON) RESULT
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(package: str, name: str, devices: list[str], result: Path) -> None:
    """Call the four functions of the interface on the dummy clip, once for each device."""
    sys.path.insert(0, ".")
    module = importlib.import_module(f"{package}.{name}")
    files = [str(Path(package) / "resources" / "dummy.wav")] * len(devices)
    model = module.load_model()
    inputs = module.load_inputs(files, devices, model)
    networks = [module.get_model_for_device(model, device) for device in devices]
    logits = [network(tensor) for network, tensor in zip(networks, inputs)]
    predicted, classes = module.predict(files, devices, use_cuda=False)
    found = {
        "has_model": hasattr(model, "model"),
        "inputs": len(inputs),
        "logits": [(each[0] if isinstance(each, tuple) else each).numel() for each in logits],
        "bytes": [stored_bytes(network) if hasattr(network, "modules") else 0 for network in networks],
        "predicted": [[float(value) for value in row] for row in predicted],
        "classes": list(classes),
    }
    result.write_text(json.dumps(found), encoding="utf-8")


def stored_bytes(network: Any) -> int:
    """Bytes of a network's parameters, with packed 8-bit weights."""
    tensors = list(network.parameters())
    for part in network.modules():
        if type(part).__module__.startswith("torch.ao.nn") and not list(part.parameters(recurse=False)):
            packed = [getattr(part, name, None) for name in ("weight", "bias")]
            tensors += [values() for values in packed if callable(values) and values() is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), Path(sys.argv[4]))

"""A golden case of a frame-level transformer, run once: what our model computes beside what the official one did."""

from functools import partial

import torch
from torch import Tensor, nn

from common.models.audio_model import AudioModel
from common.registry import load_released_state_dict
from common.registry.models import create_audio_model
from tests.support.golden_case import GoldenCase, relative_error

PARTS = ("tokens", "block_0", "block_5", "sequence", "pooled", "strong_logits", "weak_logits")


class FrameModelCase:
    """The official weights of a case in our model, and everything that one pass of its two clips leaves behind."""

    def __init__(self, name: str):
        self.case = GoldenCase(name)
        self.model: AudioModel = create_audio_model(name)
        load_released_state_dict(self.model, self.case.state_dict())
        self.model.eval().requires_grad_(False)
        self.base = self.model.network.model
        self.blocks = self.base.encoder.layers if name == "beats" else self.base.blocks
        self.outputs = self._run()

    def _run(self) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}

        def keep_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            outputs["tokens"] = inputs[0]

        def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output

        hooks = [
            self.blocks[0].register_forward_pre_hook(keep_input),
            self.blocks[0].register_forward_hook(partial(keep, "block_0")),
            self.blocks[5].register_forward_hook(partial(keep, "block_5")),
            self.base.register_forward_hook(partial(keep, "sequence")),
            self.model.front_end.register_forward_hook(partial(keep, "features")),
        ]
        with torch.inference_mode():
            output = self.model(self.case.waveform())
        for hook in hooks:
            hook.remove()
        self.embedding = output.embedding
        return outputs | {
            "pooled": output.frames,
            "strong_logits": output.frame_logits.mT,
            "weak_logits": output.logits,
        }

    def error(self, name: str) -> float:
        """Largest difference from the official value, over the spread of the official values."""
        return relative_error(self.case.thinned(name, self.outputs[name]), self.case.expected(name))

    def absolute_error(self, name: str) -> float:
        """Largest difference from the official value."""
        return float((self.case.thinned(name, self.outputs[name]) - self.case.expected(name)).abs().max())


def layout_differences(name: str) -> list[str]:
    """What differs between the official key layout of a case and our network, shapes and parameter counts included."""
    from common.registry.models import create_model, find_architecture, find_network

    case = GoldenCase(name)
    released_key = find_network(find_architecture(name).network).released_key
    with torch.device("meta"):
        network = create_model(name)
    ours = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    theirs, differences = {}, []
    for key, entry in case.info["state_dict"].items():
        if entry["kind"] == "fixed":
            continue
        mapped = released_key(key)
        if mapped is None:
            if "tied_to" not in entry:
                differences.append(f"{key} is left out")
        elif mapped in theirs:
            differences.append(f"{key} is a second {mapped}")
        else:
            theirs[mapped] = entry["shape"]
    differences += [f"{key} {shape} is only theirs" for key, shape in theirs.items() if ours.get(key) != shape]
    differences += [f"{key} {shape} is only ours" for key, shape in ours.items() if theirs.get(key) != shape]
    counts = {"num_parameters": network}
    if "num_parameters_base_model" in case.info:
        counts["num_parameters_base_model"] = network.model
    for name_of_count, part in counts.items():
        count = sum(parameter.numel() for parameter in part.parameters())
        if count != case.info[name_of_count]:
            differences.append(f"{count} instead of {case.info[name_of_count]} parameters")
    return differences

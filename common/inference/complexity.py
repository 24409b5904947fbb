"""How large a network is and how much it computes, by the counts that challenges and papers use.

Counts of multiply-accumulate operations (MACs):

- challenge: DCASE Task 1's, torchinfo with a batch of one. For every module's weight and bias: elements times output
  positions for convolutions, elements otherwise. Batch norms count twice their channels, activations nothing, and
  operations without a module (attention products, kernels made for each clip) nothing.
- all_calls: every convolution and matrix product that runs, fused attention included, without biases (torch's counter).
- repo: EfficientAT's count, modules only, one MAC for each bias of an output; papers on MN quote it.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, unknown
from common.models.network import without_values

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
COUNTED = {torch.float32: 4, torch.int32: 4, torch.float16: 2, torch.bfloat16: 2, torch.int8: 1, torch.uint8: 1,
           torch.qint8: 1, torch.quint8: 1}  # fmt: skip


@dataclass(frozen=True)
class Complexity:
    """Figures of one network for one input (1, 1, mels, frames)."""

    parameters: int  # learned; of a quantised network the packed ones
    buffers: int  # entries of tables and running statistics, which no count includes
    precision: str
    bytes: int  # of the parameters at `precision`
    input_shape: tuple[int, ...]
    challenge_macs: int
    all_calls: dict[str, int]  # conv, linear, matmul, total
    repo_macs: int


def measure(
    network: nn.Module,
    input_shape: Sequence[int],
    precision: str = "float32",
    also_reads: Mapping[str, Sequence[int]] | None = None,
) -> Complexity:
    """Count everything without computing anything: parameters and inputs live on torch's meta device meanwhile.

    Args:
        input_shape: of the spectrogram, with a batch of one, as the challenge counts.
        also_reads: further inputs of the network: name and shape without the batch.
    """
    if precision not in BYTES:
        raise unknown("precision", precision, BYTES)
    parameters = count_parameters(network)
    shadow = on_meta(network)
    inputs = {"spectrogram": torch.empty(tuple(input_shape), device="meta")}
    for name, shape in (also_reads or {}).items():
        inputs[name] = torch.empty((1, *shape), device="meta")
    return Complexity(
        parameters=parameters,
        buffers=sum(buffer.numel() for buffer in network.buffers()),
        precision=precision,
        bytes=parameters * BYTES[precision],
        input_shape=tuple(input_shape),
        challenge_macs=challenge_macs(shadow, inputs),
        all_calls=all_call_macs(shadow, inputs),
        repo_macs=repo_macs(shadow, inputs),
    )


def on_meta(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode without values."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    # deepcopy takes the entries of `memo` as the copies: no weights are copied.
    return copy.deepcopy(network, memo).to("meta").eval()


def challenge_macs(network: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """The count of DCASE Task 1 (torchinfo's total_mult_adds)."""
    import torchinfo

    device = inputs["spectrogram"].device.type
    return int(torchinfo.summary(network, input_data=dict(inputs), verbose=0, device=device).total_mult_adds)


@torch.no_grad()
def all_call_macs(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """MACs of all that runs: "conv", "linear" (layers with bias), "matmul" (all other products), and their "total"."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(**inputs)
    counts = {"conv": 0, "linear": 0, "matmul": 0}
    for operation, flops in counter.get_flop_counts()["Global"].items():
        name = str(operation)
        kind = "conv" if "convolution" in name else "linear" if "addmm" in name else "matmul"
        counts[kind] += flops // 2
    return {**counts, "total": sum(counts.values())}


@torch.no_grad()
def repo_macs(network: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """EfficientAT's count (helpers/flop_count.py): Conv2d and Linear modules, plus one MAC for each bias added."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            taps = math.prod(module.kernel_size) * module.in_channels // module.groups
        else:
            taps = inputs[0].shape[-1]
        total += output.numel() // output.shape[0] * (taps + (module.bias is not None))

    hooks = [
        module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        network(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def count_parameters(network: nn.Module) -> int:
    """Parameters, tied ones once; of quantised modules, which show none, the packed weights and biases."""
    return sum(tensor.numel() for tensor in _stored(network))


def stored_bytes(network: nn.Module) -> int:
    """Bytes of the parameters as they are stored, packed int8 weights included; UserError for types not in the rule."""
    total = 0
    for tensor in _stored(network):
        if tensor.dtype not in COUNTED:
            raise UserError(f"a parameter is {tensor.dtype}; the rule counts {', '.join(map(str, COUNTED))} only.")
        total += tensor.numel() * COUNTED[tensor.dtype]
    return total


def _stored(network: nn.Module) -> list[Tensor]:
    tensors: list[Tensor] = list(network.parameters())
    for module in network.modules():
        # Static quantisation keeps weights in packed form behind methods; the bias there is float32.
        if type(module).__module__.startswith("torch.ao.nn") and not list(module.parameters(recurse=False)):
            for name in ("weight", "bias"):
                method = getattr(module, name, None)
                packed = method() if callable(method) else None
                if isinstance(packed, Tensor):
                    tensors.append(packed)
    return tensors


LIMITS = {"bytes": 128_000, "challenge_macs": 30_000_000}
"""Of DCASE Task 1: bytes of the parameters as submitted, and MACs of one second."""
COUNTED_SETTINGS = ("model", "front_end", "labels", "embeddings", "embedding", "quantization", "limits")
"""Groups of settings that decide counts."""


def describe(name: str, precision: str | None = None, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The row that `python -m common complexity` shows: figures of a model, of a run, or of a configuration.

    Args:
        name: of an architecture or model, a run folder, or a YAML file.
        precision: of the bytes; None for float32, of Task 1 the submitted one: int8 if it is quantised, else float16.
        changes: settings of a run or file to replace, such as "model.base_channels=24".
    """
    data, path = _read_settings(name, changes)
    named = data is None or (isinstance(data.get("model"), dict) and "name" in data["model"])
    if not named and any(Path(name).glob("*/stage.json")):
        return _describe_run(name, precision or "float32")
    model, options = (name, {}) if data is None else _model_of(data, path)
    try:
        return _count(name, model, options, data, precision)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if data is None:
            raise
        raise UserError(f"{path}: {model} cannot be made with these settings: {str(error).splitlines()[0]}.") from error


def _count(
    name: str, model: str, options: dict[str, Any], data: dict[str, Any] | None, precision: str | None
) -> dict[str, Any]:
    """Figures of a model with its options; `data`: settings with front end, quantisation and limits."""
    from common.registry.models import create_front_end, create_model, find_architecture

    architecture = find_architecture(model)
    of_task_1 = data is not None and ("subset" in data or "limits" in data)
    if precision is None:
        quantised = data is not None and data.get("quantization") is not None
        precision = ("int8" if quantised else "float16") if of_task_1 else "float32"
    with without_values():
        network = create_model(model, **options)
    front_end = create_front_end(model, **((data or {}).get("front_end") or {})).eval()
    samples = round(architecture.macs_seconds * front_end.sample_rate)
    shape = front_end(torch.zeros(1, samples)).shape
    also_reads = {} if options.get("embedding_dim", 0) is None else architecture.also_reads
    figures = asdict(measure(network, shape, precision, also_reads))
    if of_task_1 and data is not None:
        own = data.get("limits") or {}
        limits = {key: own.get(f"max_{key.removeprefix('challenge_')}", most) for key, most in LIMITS.items()}
        figures["limits"] = {key: {"limit": most, "kept": figures[key] <= most} for key, most in limits.items()}
    return {"model": name, "seconds": architecture.macs_seconds, **figures}


def _describe_run(name: str, precision: str) -> dict[str, Any]:
    """The row of a run whose settings do not name its model in one place: of the model that `embed` and `tag` take."""
    from common.inference.as_model import load_run  # not part of an inference package

    model = load_run(Path(name)).cpu()
    if isinstance(model.network, nn.ModuleList):
        raise UserError(f"{name} is a system of {len(model.network)} networks, which its package counts together.")
    seconds = model.windows.window
    shape = model.front_end(torch.zeros(1, round(seconds * model.sample_rate))).shape
    return {"model": name, "seconds": seconds, **asdict(measure(model.network, shape, precision))}


def table_rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of `describe` as rows of a table."""
    calls = figures["all_calls"]
    seconds, shape = figures["seconds"], "x".join(map(str, figures["input_shape"]))
    rows = (
        ("parameters", figures["parameters"], "learned"),
        ("buffers", figures["buffers"], "entries of tables and running statistics, in no count"),
        ("bytes", figures["bytes"], f"of the parameters in {figures['precision']}{_limit(figures, 'bytes')}"),
        (
            "MACs, challenge",
            figures["challenge_macs"],
            f"DCASE Task 1 (torchinfo), batch 1, {shape}, {seconds:g} s{_limit(figures, 'challenge_macs')}",
        ),
        ("MACs, all calls", calls["total"], "every product that runs, attention included, no biases"),
        ("  convolutions", calls["conv"], ""),
        ("  linear layers", calls["linear"], "those with a bias"),
        ("  other products", calls["matmul"], "attention, kernels made for each clip, layers without bias"),
        ("MACs, EfficientAT", figures["repo_macs"], "Conv2d and Linear modules and their biases"),
    )
    return [{"count": name, figures["model"]: f"{number:,}", "how": how} for name, number, how in rows]


def _limit(figures: Mapping[str, Any], key: str) -> str:
    """How far a figure is from its limit; empty without one."""
    if key not in figures.get("limits", {}):
        return ""
    limit = figures["limits"][key]["limit"]
    spare = limit - figures[key]
    return f"; limit {limit:,}, {spare:,} left" if spare >= 0 else f"; OVER the limit of {limit:,} by {-spare:,}"


def _read_settings(name: str, changes: Sequence[str]) -> tuple[dict[str, Any] | None, Path]:
    """The settings of a run folder or a YAML file with the changes, and the file; None for the name of a model."""
    path = Path(name)
    if path.is_dir():
        path = path / "settings.yaml"
        if not path.exists():
            raise UserError(f"{name} is a folder without settings.yaml; name a run folder or a model.")
    elif path.suffix not in (".yaml", ".yml"):
        if changes:
            raise UserError(f"{name} is the name of a model; --set changes settings of a run or a CONFIG.yaml.")
        return None, path
    from common.settings.yaml_file import parse_value, read_yaml  # not part of an inference package

    data = read_yaml(path).data
    data = data if isinstance(data, dict) else {}
    for change in changes:
        key, equals, value = change.partition("=")
        *groups, last = key.split(".")
        place = data
        for group in groups:
            place = place.setdefault(group, {})
        if not equals or not isinstance(place, dict):
            raise UserError(f"--set {change} is not of the form model.base_channels=24.")
        place[last] = found = parse_value(value)
        if key.split(".")[0] not in COUNTED_SETTINGS:
            raise UserError(f"--set {change} changes no count; {', '.join(COUNTED_SETTINGS)} do.")
        if groups[:1] == ["model"] and isinstance(found, int | float) and found < 0:
            raise UserError(f"--set {change}: {key} must not be negative.")
    return data, path


def _model_of(data: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Name and options of the network that settings train."""
    from common.registry.models import find_architecture

    model = data.get("model")
    options = dict(model) if isinstance(model, dict) else {}
    name = options.pop("name", None)
    if name is None:
        raise UserError(f"{path} has no model.name, the model that the run trains.")
    if find_architecture(name).network == "crnn":  # Task 4
        embedding = data.get("embedding") or {}
        options["embedding_dim"] = None if data.get("embeddings", "none") == "none" else embedding.get("dim", 768)
    else:
        for key in ("weights", "norm_momentum"):  # of the training
            options.pop(key, None)
        options |= options.pop("options", None) or {}
    classes = (data.get("labels") or {}).get("classes")
    evaluation = path.parent / "test" / "evaluation.json"
    if classes is None and path.name == "settings.yaml" and evaluation.is_file():
        classes = json.loads(evaluation.read_text(encoding="utf-8")).get("labels")
    return name, options if classes is None else {**options, "num_classes": len(classes)}

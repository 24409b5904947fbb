"""Checks of the Task 1 2025 inference package: an installable Python package with one module per system."""

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import soundfile

from submissions.checks.generic import missing_or_empty
from submissions.checks.registry import Finding, check
from submissions.reading import Package, System, Unreadable

INTERFACE = {
    "load_model": ["model_file_path"],
    "load_inputs": ["file_paths", "device_ids", "model"],
    "get_model_for_device": ["model", "device_id"],
    "predict": ["file_paths", "device_ids", "model_file_path"],
}


@check("package_files")
def package_files_are_there(package: Package, *, required: list[str], per_system: list[str]) -> Iterator[Finding]:
    """The package has every file of the template."""
    name = package_name(package)
    yield from missing_or_empty(package.files, [pattern.format(package=name) for pattern in required])
    for system in package.systems:
        yield from (Finding(system.place(file), "is missing") for file in per_system if file not in system.files)


@check("package_name")
def package_is_named(package: Package, *, pattern_in_words: str) -> Iterator[Finding]:
    """The package is named <Lastname>_<Institute>_task1, its modules by number."""
    if not package.systems:
        yield Finding(package.name, f"has no module <package>/<package>_1.py; the package is named {pattern_in_words}")
    if len(package.systems) > package.rules.max_systems:
        yield Finding(package.name, f"{len(package.systems)} modules, at most {package.rules.max_systems} are accepted")


@check("interface")
def modules_have_the_interface(package: Package) -> Iterator[Finding]:
    """Each module has load_model, load_inputs, get_model_for_device and predict with their arguments."""
    for name, tree in modules(package):
        defined = functions(tree)
        imported = {
            alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        for function, wanted in INTERFACE.items():
            if function in defined:
                yield from _argument_mistakes(name, defined[function], wanted)
            elif function not in imported and "*" not in imported:
                yield Finding(name, f"has no function {function}({', '.join(wanted)})")


@check("official_script")
def predict_takes_what_the_script_gives(package: Package) -> Iterator[Finding]:
    """predict accepts the argument use_cuda of the official script."""
    for name, tree in modules(package):
        predict = functions(tree).get("predict")
        if predict and predict.args.kwarg is None:
            names = [argument.arg for argument in (*predict.args.args, *predict.args.kwonlyargs)]
            if "use_cuda" not in names:
                sentence = "predict does not take use_cuda, which evaluate_submission.py passes; add **kwargs"
                yield Finding(f"{name}:{predict.lineno}", sentence)


@check("dummy_clip")
def dummy_clip_is_one_second(package: Package) -> Iterator[Finding]:
    """resources/dummy.wav is one second of mono audio."""
    file = f"{package_name(package)}/resources/dummy.wav"
    if file not in package.files:
        raise Unreadable(f"{file} is missing")
    try:
        info = soundfile.info(str(package.files[file]))
    except soundfile.LibsndfileError:
        yield Finding(file, "is not audio")
        return
    if info.channels != 1 or abs(info.duration - 1) > 0.01:
        yield Finding(file, f"has {info.channels} channels and lasts {info.duration:g} s, expected one of 1 s")


@check("complexity_file")
def complexity_file_holds(system: System, *, devices: list[str], max_bytes: int, max_macs: int) -> Iterator[Finding]:
    """complexity.json has each device's MACs and bytes, and each is within the limits."""
    place, data = system.place("complexity.json"), _read_json(system, "complexity.json")
    per_device = data.get("per_device")
    if not isinstance(per_device, dict):
        yield Finding(place, "has no per_device")
        return
    missing = [device for device in devices if device not in per_device]
    if missing:
        yield Finding(place, f"has no device {', '.join(missing)}")
    for key, unit, most in (("MACs", "MACs", max_macs), ("Params", "bytes", max_bytes)):
        values = {device: figures.get(key) for device, figures in per_device.items() if isinstance(figures, dict)}
        for device, value in values.items():
            if not isinstance(value, int) or value <= 0:
                sentence = f"per_device.{device}.{key} is {value}, no count; int8 weights must be counted too"
                yield Finding(place, sentence)
            elif value > most:
                over = f"{value - most:,} over the limit of {most:,}"
                yield Finding(place, f"device {device} has {value:,} {unit}: {over}")
        known = [value for value in values.values() if isinstance(value, int)]
        if known and data.get(f"max_{key}") != max(known):
            yield Finding(place, f"max_{key} is {data.get(f'max_{key}')}, but the most of a device is {max(known)}")


@check("test_accuracy")
def test_accuracy_is_per_cent(system: System) -> Iterator[Finding]:
    """test_accuracy.json holds "Test Accuracy" in per cent."""
    value = _read_json(system, "test_accuracy.json").get("Test Accuracy")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value <= 100:
        yield Finding(system.place("test_accuracy.json"), f"Test Accuracy is {value}, expected per cent above 1")


@check("runs")
def package_runs(package: Package, *, devices: list[str], classes: list[str], timeout_s: int) -> Iterator[Finding]:
    """Each module predicts its dummy clip for every device, and has its stated size (with --run_code)."""
    if not package.run_code:
        yield Finding(package.name, "the package's code was not run; --run_code runs it", "note")
        return
    name = package_name(package)
    for system in package.systems:
        try:
            per_device = _read_json(system, "complexity.json").get("per_device", {})
            stated = {device: figures["Params"] for device, figures in per_device.items()}
        except (Unreadable, AttributeError, KeyError, TypeError):  # another rule reports it
            stated = {}
        given = {"package": name, "module": system.label, "stated": stated}
        failure = _try_module(package.folder, {**given, "devices": devices, "classes": classes}, timeout_s)
        if failure:
            yield Finding(f"{name}/{system.label}.py", failure)


def _try_module(folder: Path, given: dict[str, Any], timeout_s: int) -> str:
    """Run a module's functions in a separate process; returns the error, or an empty text."""
    with tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, "-c", _TRIAL, json.dumps(given)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": empty}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {timeout_s} s"
    return f"failed: {(done.stderr.strip() or 'no error message').splitlines()[-1]}" if done.returncode else ""


def package_name(package: Package) -> str:
    """Name of the Python package: the folder that has a module of its own name and a number; Unreadable if none."""
    if not package.systems:
        raise Unreadable("there is no module <package>/<package>_1.py")
    return package.systems[0].label.rpartition("_")[0]


def modules(package: Package) -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of each system's module; nothing is run."""
    for system in package.systems:
        name = f"{package_name(package)}/{system.label}.py"
        try:
            yield name, ast.parse(package.files[name].read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise Unreadable(f"{PurePosixPath(name).name} is not Python: {error}") from error


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """A module's functions by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _argument_mistakes(name: str, function: ast.FunctionDef, wanted: list[str]) -> Iterator[Finding]:
    place = f"{name}:{function.lineno}"
    arguments = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    if arguments[: len(wanted)] != wanted:
        yield Finding(place, f"{function.name} takes ({', '.join(arguments)}), expected ({', '.join(wanted)})")
        return
    without_default = arguments[: len(arguments) - len(function.args.defaults)]
    for argument in without_default:
        if argument == "model_file_path" or argument not in wanted:
            yield Finding(place, f"argument {argument} of {function.name} needs a default")


def _read_json(system: System, name: str) -> dict[str, Any]:
    place = system.place(name)
    if name not in system.files:
        raise Unreadable(f"{place} is missing")
    try:
        data = json.loads(system.files[name].read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unreadable(f"{place} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise Unreadable(f"{place} is not a JSON object")
    return data


# Runs in a separate process, in the package's folder. The last line of an error is shown to the user.
_TRIAL = """
import importlib, json, math, sys
from pathlib import Path
given = json.loads(sys.argv[1])
sys.path.insert(0, ".")
module = importlib.import_module(f"{given['package']}.{given['module']}")
clip = str(Path(given["package"]) / "resources" / "dummy.wav")
model = module.load_model()
if not hasattr(model, "model"):
    raise SystemExit("load_model() gives an object without .model, which evaluate_submission.py saves")
files, devices = [clip] * len(given["devices"]), given["devices"]
inputs = module.load_inputs(files, devices, model)
if len(inputs) != len(files):
    raise SystemExit(f"load_inputs gave {len(inputs)} tensors for {len(files)} files")
def stored_bytes(network):
    tensors = list(network.parameters())
    for part in network.modules():
        if type(part).__module__.startswith("torch.ao.nn") and not list(part.parameters(recurse=False)):
            packed = [getattr(part, name, None) for name in ("weight", "bias")]
            tensors += [values() for values in packed if callable(values) and values() is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
for device, tensor in zip(devices, inputs):
    network = module.get_model_for_device(model, device)
    if hasattr(network, "modules") and device in given["stated"]:
        found, stated = stored_bytes(network), given["stated"][device]
        if found != stated:
            raise SystemExit(f"the network for device {device} has {found:,} bytes, complexity.json says {stated:,}")
    logits = network(tensor)
    logits = logits[0] if isinstance(logits, tuple) else logits
    if logits.numel() != len(given["classes"]):
        raise SystemExit(f"the model for device {device} gives {tuple(logits.shape)}, expected ten logits")
logits, order = module.predict(files, devices)
if sorted(order) != sorted(given["classes"]):
    raise SystemExit(f"predict gives the classes {list(order)}")
if len(logits) != len(files):
    raise SystemExit(f"predict gave {len(logits)} results for {len(files)} files")
if any(len(row) != len(order) or not all(math.isfinite(float(value)) for value in row) for row in logits):
    raise SystemExit("predict gives logits that are not ten finite numbers")
"""

"""Checks of the Task 1 2025 inference package: an installable Python package with one module per system."""

import ast
import glob
from collections.abc import Iterator
from typing import Any, TypeGuard

import soundfile
from pydantic_core import from_json

from submissions.checks.generic import files_of_macos, missing_or_empty
from submissions.checks.registry import Finding, check
from submissions.reading import Broken, NeedsOption, Package, System, Unreadable
from submissions.trial import try_module

INTERFACE = {
    "load_model": ["model_file_path"],
    "load_inputs": ["file_paths", "device_ids", "model"],
    "get_model_for_device": ["model", "device_id"],
    "predict": ["file_paths", "device_ids", "model_file_path"],
}


@check("package_files")
def package_files_are_there(
    package: Package, *, required: list[str], per_system: list[str], may_be_empty: list[str]
) -> Iterator[Finding]:
    """The package has every file of the template."""
    for name in package_names(package):
        patterns = [pattern.format(package=glob.escape(name)) for pattern in required]
        empty = [pattern.format(package=glob.escape(name)) for pattern in may_be_empty]
        yield from missing_or_empty(package.files, patterns, may_be_empty=empty)
    for system in package.systems:
        yield from missing_or_empty(system.files, per_system, system.prefix)
    yield from files_of_macos(package)


@check("package_name")
def package_is_named(package: Package, *, pattern_in_words: str) -> Iterator[Finding]:
    """There is one Python package, named <Lastname>_<Institute>_task1, its modules by number."""
    names = sorted({system.package for system in package.systems})
    if not names:
        yield Finding(package.name, f"has no module <package>/<package>_1.py; the package is named {pattern_in_words}")
    if len(names) > 1:
        yield Finding(package.name, f"has {len(names)} packages, {', '.join(names)}; submit one")
    if len(package.systems) > package.rules.max_systems:
        yield Finding(package.name, f"{len(package.systems)} modules, at most {package.rules.max_systems} are accepted")


@check("interface")
def modules_have_the_interface(package: Package) -> Iterator[Finding]:
    """Each module has load_model, load_inputs, get_model_for_device and predict with their arguments."""
    elsewhere = []
    for name, defined, imported in modules(package):
        for function, wanted in INTERFACE.items():
            if function in defined:
                yield from _argument_mistakes(name, defined[function], wanted)
            elif imported & {function, "*"}:
                elsewhere.append(f"{name} imports {function}")
            else:
                yield Finding(name, f"has no function {function}({', '.join(wanted)})")
    _tried_by_running(package, elsewhere)


@check("official_script")
def predict_takes_what_the_script_gives(package: Package) -> Iterator[Finding]:
    """predict accepts the argument use_cuda of the official script."""
    elsewhere = []
    for name, defined, _ in modules(package):
        if "predict" not in defined:
            elsewhere.append(f"{name} does not define predict itself")
            continue
        arguments = defined["predict"].args
        names = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
        if arguments.kwarg is None and "use_cuda" not in names:
            sentence = "predict does not take use_cuda, which evaluate_submission.py passes; add **kwargs"
            yield Finding(f"{name}:{defined['predict'].lineno}", sentence)
    _tried_by_running(package, elsewhere)


@check("dummy_clip")
def dummy_clip_is_one_second(package: Package) -> Iterator[Finding]:
    """resources/dummy.wav is one second of mono audio."""
    for file in (f"{name}/resources/dummy.wav" for name in package_names(package)):
        if file not in package.files:
            raise Unreadable(f"{file} is missing")
        try:
            info = soundfile.info(str(package.files[file]))
        except soundfile.LibsndfileError:
            yield Finding(file, "is not audio")
            continue
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
    missing = [device for device in devices if not isinstance(per_device.get(device), dict)]
    if missing:
        yield Finding(place, f"has no device {', '.join(missing)}")
    for key, unit, most in (("MACs", "MACs", max_macs), ("Params", "bytes", max_bytes)):
        values = {device: figures.get(key) for device, figures in per_device.items() if isinstance(figures, dict)}
        for device, value in values.items():
            if _is_count(value) and value > most:
                over = f"{value - most:,} over the limit of {most:,}"
                yield Finding(place, f"device {device} has {value:,} {unit}: {over}")
            elif not _is_count(value):
                sentence = f"per_device.{device}.{key} is {value}, no count; int8 weights must be counted too"
                yield Finding(place, sentence)
        known = [value for value in values.values() if _is_count(value)]
        if known and data.get(f"max_{key}") != max(known):
            yield Finding(place, f"max_{key} is {data.get(f'max_{key}')}, but the most of a device is {max(known)}")


@check("test_accuracy")
def test_accuracy_is_per_cent(system: System) -> Iterator[Finding]:
    """test_accuracy.json holds "Test Accuracy" in per cent."""
    value = _read_json(system, "test_accuracy.json").get("Test Accuracy")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value <= 100:
        yield Finding(system.place("test_accuracy.json"), f"Test Accuracy is {value}, expected per cent above 1")


@check("runs")
def package_runs(package: Package, *, devices: list[str], classes: list[str], timeout_s: float) -> Iterator[Finding]:
    """Each module predicts its dummy clip for every device, and has its stated size (with --run_code)."""
    if not package.run_code:
        raise NeedsOption("the package's code was not run; give --run_code")
    package_names(package)
    for system in package.systems:
        try:
            per_device = _read_json(system, "complexity.json").get("per_device", {})
            stated = {device: figures["Params"] for device, figures in per_device.items()}
        except (Unreadable, AttributeError, KeyError, TypeError):  # another rule reports it
            stated = {}
        name = system.package
        failure, protection = try_module(package.files, name, system.label, devices, classes, stated, timeout_s)
        place = f"{system.package}/{system.label}.py"
        if failure:
            yield Finding(place, failure)
        yield Finding(place, f"was run. Protection: {protection}", "note")


def package_names(package: Package) -> list[str]:
    """Names of the Python packages: folders that have a module of their own name and a number; Unreadable if none."""
    if not package.systems:
        raise Unreadable("there is no module <package>/<package>_1.py")
    return sorted({system.package for system in package.systems})


def modules(package: Package) -> Iterator[tuple[str, dict[str, ast.FunctionDef], set[str]]]:
    """Each system's module: its file, its functions, and the names that it imports; nothing is run.

    Raises:
        Unreadable: if there is none. Broken: if one is not Python.
    """
    package_names(package)
    for system in package.systems:
        name = f"{system.package}/{system.label}.py"
        try:
            tree = ast.parse(package.files[name].read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Broken(name, f"is not Python: {error or type(error).__name__}") from error
        defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        yield name, defined, {alias.asname or alias.name for node in nodes for alias in node.names}


def _tried_by_running(package: Package, elsewhere: list[str]) -> None:
    """Functions that a module takes from another are not read, but called by the rule `runs`."""
    if elsewhere and not package.run_code:
        raise NeedsOption(f"{elsewhere[0]}; give --run_code to try it")


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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
        data = from_json(system.files[name].read_bytes())
    except ValueError as error:
        raise Broken(place, f"is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise Broken(place, "is not a JSON object")
    return data

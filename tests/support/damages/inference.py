"""Damages of the inference package of Task 1 of 2025."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tests.support.damage import Damage, cell, rewrite
from tests.support.packages import INFERENCE_NAME, edit_json, module, predictions, replace, set_figure


def edit_source(old: str, new: str):
    return lambda package: replace(module(package), old, new)


def predicted(change) -> Callable[[Path], None]:
    return rewrite("output.csv", change)


def figures(change) -> Callable[[Path], None]:
    return lambda package: edit_json(predictions(package) / "complexity.json", change)


def second_package(package: Path) -> None:
    shutil.copytree(package / INFERENCE_NAME, package / "Other_INST_task1")
    for path in (package / "Other_INST_task1").glob(f"{INFERENCE_NAME}_*.py"):
        path.rename(path.with_name(path.name.replace(INFERENCE_NAME, "Other_INST_task1")))


INFERENCE: dict[str, Damage] = {
    "a second package": (second_package, "package_name", f"has 2 packages, {INFERENCE_NAME}, Other_INST_task1"),
    "five systems": (
        lambda p: [
            shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_{number}.py") for number in (2, 3, 4, 5)
        ],
        "package_name",
        "5 modules, at most 4",
    ),
    "a system numbered 7": (
        lambda p: shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_7.py"),
        "label",
        f"{INFERENCE_NAME}_7",
    ),
    "a system without predictions": (
        lambda p: shutil.copy(module(p), p / INFERENCE_NAME / f"{INFERENCE_NAME}_2.py"),
        "package_files",
        f"predictions/{INFERENCE_NAME}_2/complexity.json is missing",
    ),
    "an empty checkpoint": (
        lambda p: (p / INFERENCE_NAME / "ckpts" / "model.ckpt").write_bytes(b""),
        "package_files",
        f"{INFERENCE_NAME}/ckpts/model.ckpt is empty",
    ),
    "an empty script": (lambda p: (p / "setup.py").write_text(""), "package_files", "setup.py is empty"),
    "an empty table of the evaluation set": (
        lambda p: (predictions(p) / "output.csv").write_text(""),
        "package_files",
        "output.csv is empty",
    ),
    "no list of the test split": (
        lambda p: (p / INFERENCE_NAME / "resources" / "test.csv").unlink(),
        "package_files",
        f"{INFERENCE_NAME}/resources/test.csv is missing",
    ),
    "a module that is not Python": (
        edit_source("def load_model", "def load model"),
        "interface",
        f"{INFERENCE_NAME}_1.py is not",
    ),
    "a module nested too deep": (
        lambda p: module(p).write_text("x = " + "-" * 100_000 + "1\n"),
        "interface",
        f"{INFERENCE_NAME}_1.py is not Python",
    ),
    "predict as an attribute": (
        edit_source(
            "def predict(file_paths, device_ids, model_file_path=None, **official_script):", "def _predict(a):"
        ),
        "interface",
        "has no function predict(file_paths, device_ids, model_file_path)",
    ),
    "a further argument without default": (
        edit_source(
            "def load_inputs(file_paths, device_ids, model)", "def load_inputs(file_paths, device_ids, model, rate)"
        ),
        "interface",
        "argument rate of load_inputs needs a default",
    ),
    "a dummy clip in stereo": (
        lambda p: soundfile.write(p / INFERENCE_NAME / "resources" / "dummy.wav", np.zeros((44_100, 2)), 44_100),
        "dummy_clip",
        "dummy.wav has 2 channels",
    ),
    "a dummy clip that is text": (
        lambda p: (p / INFERENCE_NAME / "resources" / "dummy.wav").write_text("clip"),
        "dummy_clip",
        "dummy.wav is not audio",
    ),
    "nested JSON": (
        lambda p: (predictions(p) / "complexity.json").write_text('{"a":' * 100_000),
        "complexity_file",
        "complexity.json is not JSON",
    ),
    "JSON that is a list": (
        lambda p: (predictions(p) / "test_accuracy.json").write_text("[52.3]"),
        "test_accuracy",
        "test_accuracy.json is not a JSON object",
    ),
    "true for a count": (set_figure("c", "MACs", True), "complexity_file", "per_device.c.MACs is True, no count"),
    "a count with a fraction": (set_figure("c", "Params", 9.5), "complexity_file", "per_device.c.Params is 9.5"),
    "a device without figures": (
        figures(lambda data: data["per_device"].update(s10="small")),
        "complexity_file",
        "has no device s10",
    ),
    "a maximum that is none": (
        figures(lambda data: data.update(max_Params=1)),
        "complexity_file",
        "max_Params is 1, but the most of a device is 122296",
    ),
    "no accuracy": (
        lambda p: edit_json(predictions(p) / "test_accuracy.json", lambda data: data.pop("Test Accuracy")),
        "test_accuracy",
        "Test Accuracy is None",
    ),
    "an accuracy above 100": (
        lambda p: edit_json(predictions(p) / "test_accuracy.json", lambda data: data.update({"Test Accuracy": 523})),
        "test_accuracy",
        "Test Accuracy is 523",
    ),
    "probabilities in other columns": (
        predicted(lambda table: table.rename(columns={"bus": "tram", "tram": "bus"})),
        "table_form",
        "output.csv:1 column 4 is 'tram', expected 'bus'",
    ),
    "False for a probability": (predicted(cell(3, 5, "False")), "numbers", "output.csv:5 metro_station is False"),
    "a table of one answer": (
        predicted(lambda table: table.assign(**{name: table[name].iat[0] for name in table.columns[1:]})),
        "not_collapsed",
        "output.csv every row has the same answer",
    ),
}

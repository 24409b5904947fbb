"""Checking and damaging the Task 1 2025 inference package."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from submissions.package import check_package, make_zip
from submissions.report import passes
from tests.support.damage import assert_found, broken
from tests.support.packages import (
    INFERENCE_NAME,
    edit_json,
    module,
    predictions,
    replace,
    set_figure,
    task1_table,
    write_inference,
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return write_inference(tmp_path_factory.mktemp("valid"))


DAMAGES = {
    "no setup.py": (lambda p: (p / "setup.py").unlink(), "package_files", "setup.py is missing"),
    "no checkpoint": (
        lambda p: (p / INFERENCE_NAME / "ckpts" / "model.ckpt").unlink(),
        "package_files",
        f"{INFERENCE_NAME}/ckpts/* is missing",
    ),
    "no predictions": (
        lambda p: (predictions(p) / "output.csv").unlink(),
        "package_files",
        f"predictions/{INFERENCE_NAME}_1/output.csv is missing",
    ),
    "a function missing": (
        lambda p: replace(module(p), "def get_model_for_device", "def model_for"),
        "interface",
        "has no function get_model_for_device(model, device_id)",
    ),
    "an argument renamed": (
        lambda p: replace(module(p), "device_ids, model_file_path=None", "devices, model_file_path=None"),
        "interface",
        f"{INFERENCE_NAME}_1.py:21 predict takes (file_paths, devices, model_file_path)",
    ),
    "a model path without default": (
        lambda p: replace(module(p), "load_model(model_file_path=None)", "load_model(model_file_path)"),
        "interface",
        "argument model_file_path of load_model needs a default",
    ),
    "use_cuda not taken": (
        lambda p: replace(module(p), ", **official_script", ""),
        "official_script",
        f"{INFERENCE_NAME}_1.py:21 predict does not take use_cuda",
    ),
    "a dummy clip of two seconds": (
        lambda p: soundfile.write(p / INFERENCE_NAME / "resources" / "dummy.wav", np.zeros(88_200), 44_100),
        "dummy_clip",
        "dummy.wav has 1 channels and lasts 2 s",
    ),
    "a device missing": (
        lambda p: edit_json(predictions(p) / "complexity.json", lambda data: data["per_device"].pop("s7")),
        "complexity_file",
        "complexity.json has no device s7",
    ),
    "a device over the limit of bytes": (
        set_figure("b", "Params", 130_000),
        "complexity_file",
        "device b has 130,000 bytes: 2,000 over the limit",
    ),
    "a device over the limit of MACs": (
        set_figure("b", "MACs", 30_000_001),
        "complexity_file",
        "device b has 30,000,001 MACs: 1 over the limit",
    ),
    "an int8 model counted as nothing": (
        set_figure("b", "Params", 0),
        "complexity_file",
        "per_device.b.Params is 0, no count",
    ),
    "an accuracy of 0..1": (
        lambda p: edit_json(predictions(p) / "test_accuracy.json", lambda data: data.update({"Test Accuracy": 0.52})),
        "test_accuracy",
        "Test Accuracy is 0.52, expected per cent",
    ),
    "a label that is not the most probable": (
        lambda p: (
            task1_table([f"audio/{number}.wav" for number in range(8)], 1)
            .assign(scene_label="bus")
            .to_csv(predictions(p) / "output.csv", sep="\t", index=False)
        ),
        "argmax",
        "output.csv:2 scene_label is bus",
    ),
}


def test_a_valid_package_breaks_no_rule(valid):
    assert broken(valid) == {}
    opened, results = check_package(make_zip(valid))
    assert opened.rules.name == "task1_2025"
    assert {result.name for result in results if not result.holds} == {"evaluation_list", "evaluation_files", "runs"}
    assert passes(results)


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_its_place_is_named(package, name):
    assert_found(package, DAMAGES[name])


def test_the_list_of_the_evaluation_set_keeps_its_folder(package, tmp_path):
    names = "".join(f"audio/{number}.wav\ta\n" for number in range(8))
    (tmp_path / "fold1_test.tsv").write_text(f"filename\tdevice_id\n{names}")
    assert broken(package, evaluation_set=tmp_path / "fold1_test.tsv") == {}
    replace(predictions(package) / "output.csv", "audio/3.wav", "3.wav")
    found = broken(package, evaluation_set=tmp_path / "fold1_test.tsv")
    assert "output.csv:5" in found["evaluation_files"][0].place
    assert "must start with audio/" in found["evaluation_files"][0].sentence


def test_the_code_runs_only_when_asked(package):
    replace(module(package), "    return Container()", "    raise RuntimeError('no weights')")
    assert broken(package) == {}
    found = broken(package, run_code=True)
    assert "no weights" in found["runs"][0].sentence


def test_a_working_package_runs(package):
    assert broken(package, run_code=True) == {}


def test_a_container_without_model_is_told(package):
    replace(module(package), '    model = "network"', "    pass")
    assert "without .model" in broken(package, run_code=True)["runs"][0].sentence

"""A run from teachers through their logits to a student in 8 bit; and logits that are refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.data.files import compute_sha256, write_json
from common.errors import UserError
from common.settings import SettingsError
from task1_asc.data.clips import open_development, read_training_clips
from task1_asc.data.tau2022 import CLASSES, read_clips, read_split
from task1_asc.data.teacher_logits import read_logits, read_seen, write_logits, write_seen
from task1_asc.evaluate import predict
from task1_asc.export import export_run
from task1_asc.networks.build import input_shape, load_run_networks
from task1_asc.networks.classify import DeviceNetworks, classify_with
from task1_asc.networks.teachers import each_teacher, load_teacher, make_teacher, teacher_settings
from task1_asc.recipe import RECIPE
from task1_asc.submission.package_2024 import complexity_figures
from task1_asc.train import SceneTraining
from tests.support.quick_distillation import published, quick

TEACHER = {
    "name": "one", "model": "cp_mobile", "epochs": 1, "batch_size": 2, "optim": {"lr": 0.1, "warmup_share": 0.1}
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_task1, tmp_path_factory):
    """A run from teachers to int8."""
    return RECIPE.run(quick(tiny_task1, tmp_path_factory.mktemp("runs")))


@pytest.fixture
def logits(finished, tmp_path):
    """A copy of the finished run's logits, to be damaged."""
    return Path(shutil.copytree(finished.folder / "logits", tmp_path / "logits")) / "logits.h5"


# The chain


def test_a_run_goes_from_teachers_to_scores_in_8_bit(finished):
    stages = ["teachers", "logits", "train", "quantize", "test"]
    assert [stage.name for stage in RECIPE.stages(finished.settings)] == stages
    assert all((finished.folder / stage / "stage.json").is_file() for stage in stages)
    scores = RECIPE.open(finished.folder).read_evaluation()
    assert {"float32", "float16", "int8"} <= set(scores)
    row = RECIPE.result_row(finished)
    assert row["macro_accuracy_int8"] == scores["int8"]["macro_accuracy"]["value"]
    saved = np.load(finished.folder / "test" / "logits.npz")
    assert not np.array_equal(saved["int8"], saved["float32"])
    assert np.abs(saved["int8"] - saved["float32"]).max() < 1


def test_the_stored_logits_are_the_mean_of_what_the_teachers_say_about_clips_as_recorded(finished, tiny_task1):
    settings = finished.settings
    clips = read_split(tiny_task1, 5).iloc[::9]
    batch = open_development(settings, clips).gather(range(len(clips)))
    said = []
    for name, number, teacher in each_teacher(settings):
        own = teacher_settings(settings, teacher, number)
        model = load_teacher(finished, name, own, teacher, 32000)
        networks = {"it": DeviceNetworks(model.network)}
        said.append(classify_with(model.front_end, networks, [batch])[0]["it"])
    names = clips["filename"].tolist()
    stored = read_logits(finished.folder / "logits" / "logits.h5", 5, tiny_task1, names)
    assert len(said) == 2 and np.abs(said[0] - said[1]).max() > 0.1
    np.testing.assert_allclose(stored, np.mean(said, axis=0), atol=2e-3)  # float16
    backwards = read_logits(finished.folder / "logits" / "logits.h5", 5, tiny_task1, names[::-1])
    np.testing.assert_array_equal(backwards, stored[::-1])


def test_a_batch_has_the_logits_of_its_own_clips(finished, tiny_task1):
    path = finished.folder / "logits" / "logits.h5"
    clips = read_training_clips(finished.settings, logits=path)
    batch = next(iter(clips.training_loader(finished.settings)))
    expected = read_logits(path, 5, tiny_task1, batch["filename"])
    np.testing.assert_array_equal(batch["teacher_logits"].numpy(), expected)
    own = next(iter(clips.for_device("a").training_loader(finished.settings)))
    np.testing.assert_array_equal(own["teacher_logits"], read_logits(path, 5, tiny_task1, own["filename"]))
    assert set(own["recording_device"]) == {"a"}


def test_mixed_clips_have_mixed_labels_and_mixed_teachers(finished, tiny_task1, tmp_path, monkeypatch):
    settings = quick(tiny_task1, tmp_path, augment__mixup_alpha=0.4, augment__roll_seconds=0.0)
    module = SceneTraining(settings, 32000)
    module.log = lambda *_, **__: None
    seen = []
    monkeypatch.setattr(
        "task1_asc.train.distillation_loss", lambda *given: seen.append(given) or torch.zeros((), requires_grad=True)
    )
    # The teacher is sure of the label, so that what is mixed must be the same for both.
    target = torch.arange(8)
    logits = 200.0 * F.one_hot(target, 10)
    batch = {"waveform": 0.1 * torch.randn(8, 32000), "target": target, "recording_device": ["a"] * 8}
    module.training_step({**batch, "teacher_logits": logits}, 0)
    _, labels, taught, _ = seen[0]
    assert ((labels > 0).sum(dim=1) == 2).any()
    torch.testing.assert_close(labels, taught)


def test_the_teachers_see_what_the_student_sees_and_say_so(finished, tiny_task1):
    expected = sorted(read_split(tiny_task1, 5)["filename"])
    folders = sorted(path for path in (finished.folder / "teachers").iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["cp_mobile_1", "cp_resnet_1"]
    for folder in folders:
        assert (folder / "seen.tsv").read_text().splitlines()[1:] == expected


def test_a_second_call_keeps_everything_and_another_temperature_needs_no_new_teachers(finished, tiny_task1, capsys):
    runs = finished.folder.parent
    RECIPE.run(quick(tiny_task1, runs))
    assert capsys.readouterr().err.count("kept") == 5
    other = quick(tiny_task1, runs, distillation__temperature=3.0)
    with pytest.raises(UserError, match=r"distillation\.temperature: 2\.0 -> 3\.0.*--redo train"):
        RECIPE.run(other)


def test_a_stopped_run_goes_on_and_ends_with_the_same_weights(finished, tiny_task1, tmp_path, monkeypatch):
    settings = quick(tiny_task1, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("task1_asc.data.teacher_logits.write_logits", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            RECIPE.run(settings)
    run = RECIPE.run(settings)
    for stage in ("teachers", "logits"):
        assert json.loads((run.folder / stage / "stage.json").read_text())["stage"] == stage
    pairs = [torch.load(folder / "quantize" / "general.ckpt") for folder in (run.folder, finished.folder)]
    first, second = (pair["state_dict"] for pair in pairs)
    assert all(_same(first[name], second[name]) for name in second)


def _same(first, second):
    if isinstance(first, torch.Tensor) and first.is_quantized:
        return torch.equal(first.int_repr(), second.int_repr())
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def test_the_table_of_a_quantised_run_is_that_of_8_bit(finished, tiny_task1):
    from task1_asc.submission.package_2024 import SubsetRun

    path = predict(finished, tiny_task1)
    facts = json.loads(path.with_name("predictions.json").read_text())
    assert facts["precision"] == "int8"
    first = path.read_text()
    predict(finished, tiny_task1, precision="float32")
    assert path.read_text() != first
    complexity = complexity_figures([SubsetRun(finished, {}, facts)])
    assert complexity["total_model_size"] < 2 * complexity["total_parameters"]
    assert complexity["precision"] == "int8"


def test_a_run_that_is_not_quantised_has_no_8_bit_table(tiny_task1, tmp_path, finished):
    from common.runs.run import Run

    plain = Run(finished.folder, finished.settings.model_copy(update={"quantization": None}))
    with pytest.raises(UserError, match="not quantised"):
        predict(plain, tiny_task1, precision="int8")


def test_quantisation_aware_training_changes_the_weights_it_quantises(finished, tiny_task1, tmp_path):
    """Learned with the student's loss, from the weights of the train stage."""
    from task1_asc.recipe import train_quantized

    settings = quick(tiny_task1, tmp_path, quantization__training={"epochs": 2, "lr": 1e-3, "frozen_epochs": 1})
    clips = read_training_clips(settings, logits=finished.folder / "logits" / "logits.h5")
    run = type(finished)(tmp_path / "run", settings)
    shutil.copytree(finished.folder / "train", run.folder / "train")
    front_end, networks = load_run_networks(run, 32000)
    folder = run.folder / "quantize" / "general_training"
    quantized = train_quantized(folder, clips, front_end, networks.base_model, False)
    after = torch.load(finished.folder / "quantize" / "general.ckpt")["state_dict"]
    trained = quantized.state_dict()
    assert set(trained) == set(after)
    assert any(not _same(trained[name], after[name]) for name in after)
    rates = (folder / "metrics.csv").read_text().splitlines()
    # The rate that comes after each epoch: 1 until epoch 1, then down over 16 epochs to a tenth.
    assert [float(line.split(",")[3]) for line in rates[1:]] == pytest.approx([1e-3, 1e-3 * (1 - 0.9 / 16)])


# Bad input


def read(path, root, subset=5):
    return read_logits(path, subset, root, read_split(root, subset)["filename"].tolist())


def test_logits_of_another_subset_are_refused(logits, tiny_task1):
    with pytest.raises(UserError, match=r"for subset 5, the student learns subset 25"):
        read(logits, tiny_task1, subset=25)


def test_logits_for_another_list_of_the_subset_are_refused(logits, tiny_task1, tmp_path):
    shutil.copytree(tiny_task1, tmp_path / "tree", ignore=shutil.ignore_patterns("audio", "*.npy", "*.h5"))
    path = tmp_path / "tree" / "split_setup" / "split5.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="was written for another list of split 5"):
        read(logits, tmp_path / "tree")


def test_logits_of_a_teacher_that_saw_another_clip_are_refused(logits, tiny_task1):
    outside = read_split(tiny_task1, 100)
    outside = outside[~outside["filename"].isin(read_split(tiny_task1, 5)["filename"])]["filename"].iloc[0]
    seen = logits.with_name("seen.tsv")
    seen.write_text(seen.read_text() + outside + "\n")
    origin = json.loads(logits.with_name("origin.json").read_text())
    write_json(logits.with_name("origin.json"), {**origin, "seen_sha256": compute_sha256(seen)})
    with pytest.raises(UserError, match=rf"seen 1 of 101 clips outside the subset 5 \(first {outside}\): a leak"):
        read(logits, tiny_task1)


def test_a_run_whose_teacher_saw_a_clip_outside_the_subset_fails(finished, tiny_task1, tmp_path):
    """The leak test: a clip of the test split among those that a teacher was trained on stops the run."""
    run = type(finished)(tmp_path / "run", finished.settings)
    shutil.copytree(finished.folder, run.folder)
    shutil.rmtree(run.folder / "logits")
    (run.folder / "train" / "stage.json").unlink()
    stolen = read_split(tiny_task1, "test")["filename"].iloc[0]
    seen = run.folder / "teachers" / "cp_resnet_1" / "seen.tsv"
    seen.write_text(seen.read_text() + stolen + "\n")
    with pytest.raises(
        UserError, match=rf"The teacher cp_resnet_1 has seen 1 of 101 clips outside .*{stolen}.* a leak"
    ):
        RECIPE.run(run.settings, run.folder)
    assert not (run.folder / "logits" / "logits.h5").exists()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("missing", r"lacks 1 of 100 clips \(first audio/.*\)"),
        ("doubled", "more than once"),
        ("nan", "hold NaN or infinity"),
        ("changed", "is not the file that"),
    ],
)
def test_damaged_logits_are_refused_with_the_clip(logits, tiny_task1, damage, told):
    with h5py.File(logits, "r+") as file:
        names, values = file["filenames"][:], file["logits"][:]
        del file["filenames"], file["logits"]
        if damage == "missing":
            names, values = names[1:], values[1:]
        if damage == "doubled":
            names[1] = names[0]
        if damage == "nan":
            values[4, 2] = np.nan
        if damage == "changed":
            values[4, 2] += 1
        file["filenames"], file["logits"] = names, values
    with pytest.raises(UserError, match=told):
        read(logits, tiny_task1)


def test_a_teacher_without_a_list_of_what_it_saw_is_refused(tmp_path):
    write_seen(tmp_path, ["b.wav", "a.wav"])
    assert read_seen(tmp_path) == ["a.wav", "b.wav"]
    (tmp_path / "seen.tsv").unlink()
    with pytest.raises(UserError, match=r"has no seen\.tsv, which lists the clips"):
        read_seen(tmp_path)


def test_logits_of_unknown_origin_are_refused(logits, tiny_task1):
    logits.with_name("origin.json").unlink()
    with pytest.raises(UserError, match="which says what its teachers have seen"):
        read(logits, tiny_task1)


def test_logits_that_are_nan_are_not_written(tiny_task1, tmp_path):
    names = read_split(tiny_task1, 5)["filename"].tolist()
    (tmp_path / "teacher").mkdir()
    write_seen(tmp_path / "teacher", names)
    values = np.zeros((len(names), len(CLASSES)))
    values[7] = np.nan
    with pytest.raises(UserError, match=rf"{Path(names[7]).name}.*NaN"):
        write_logits(tmp_path / "logits", 5, tiny_task1, names, values, {"it": tmp_path / "teacher"}, "float16")
    assert not (tmp_path / "logits" / "logits.h5").exists()


def test_logits_of_another_run_take_the_place_of_teachers(finished, tiny_task1, tmp_path):
    path = finished.folder / "logits" / "logits.h5"
    settings = quick(tiny_task1, tmp_path, distillation={"logits": str(path)}, quantization=None)
    assert [stage.name for stage in RECIPE.stages(settings)] == ["train", "test"]
    run = RECIPE.run(settings)
    ours, theirs = (torch.load(run_.folder / "train" / "last.ckpt")["state_dict"] for run_ in (run, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match="for subset 5, the student learns subset 10"):
        RECIPE.run(settings.model_copy(update={"subset": 10, "name": "other"}))


def test_weights_that_saw_the_whole_development_set_are_refused_for_a_subset():
    teacher = published().distillation.teachers[0].model_copy(update={"weights": "passt_s_swa.tau_dirfms_1"})
    with pytest.raises(UserError, match="of the whole development-train split; with subset 25 that is a leak"):
        make_teacher(teacher, 32000, 25)


@pytest.mark.parametrize(
    ("distillation", "told"),
    [
        ({"temperature": 2.0}, "give teachers, or logits"),
        ({"logits": "a.h5", "teachers": []}, None),
        (
            {
                "teachers": [{"name": "one", "model": "cp_mobile", "epochs": 1, "batch_size": 2, "optim": {"lr": 0.1}}]
                * 2
            },
            "warmup|rise_epochs",
        ),
    ],
)
def test_distillation_needs_one_source_of_logits(tiny_task1, tmp_path, distillation, told):
    if told is None:
        quick(tiny_task1, tmp_path, distillation=distillation)
        return
    with pytest.raises(SettingsError, match=told):
        quick(tiny_task1, tmp_path, distillation=distillation)


def test_the_packed_clips_with_logits_are_as_many_as_the_logits(finished):
    clips = read_training_clips(finished.settings)
    taught = replace(clips, logits=np.zeros((len(clips.train), 10), dtype=np.float32))
    dataset = open_development(finished.settings, taught.train)
    assert len(dataset) == len(clips.train) == len(read_clips(finished.settings.data.root).merge(clips.train))


# ONNX


def test_a_run_is_exported_in_three_precisions_that_say_the_same(finished, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    rows = {row["form"]: row for row in export_run(finished, tmp_path)}
    assert json.loads((tmp_path / "table.json").read_text()) == list(rows.values())
    assert rows["ONNX float32"]["says the same in %"] == 100
    assert rows["ONNX float16"]["says the same in %"] > 95
    figures = finished.read_evaluation()
    for form in ("PyTorch float32", "ONNX float32"):
        assert rows[form]["macro accuracy in %"] == pytest.approx(100 * figures["float32"]["macro_accuracy"]["value"])
    assert rows["PyTorch int8"]["macro accuracy in %"] == pytest.approx(
        100 * figures["int8"]["macro_accuracy"]["value"], abs=0.01
    )
    parameters = rows["ONNX float32"]["bytes of parameters"] // 4
    assert rows["ONNX float16"]["bytes of parameters"] == 2 * parameters
    assert rows["ONNX int8"]["bytes of parameters"] == rows["PyTorch int8"]["bytes of parameters"] < 2 * parameters
    for name in ("float32", "float16", "int8"):
        session = onnxruntime.InferenceSession(tmp_path / f"cp_mobile_{name}.onnx")
        shape = input_shape(finished.settings, 32000)
        for batch in (1, 3):
            [logits] = session.run(None, {"spectrogram": np.zeros((batch, *shape[1:]), np.float32)})
            assert logits.shape == (batch, 10) and logits.dtype == np.float32


def test_an_export_without_its_parts_is_refused_before_anything_is_read(finished, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"Exporting needs onnx.*pip install onnx onnxscript onnxruntime"):
        export_run(finished, tmp_path / "out")
    assert not (tmp_path / "out").exists()

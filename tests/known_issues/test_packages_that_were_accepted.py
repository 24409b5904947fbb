"""Packages of the forms that the organisers accepted: the kit accepts them, too."""

import shutil
import zipfile
from pathlib import Path

import pytest

from submissions.package import check_package
from submissions.report import lines
from tests.support.damage import broken
from tests.support.packages import INFERENCE_NAME, edit_meta, write_inference, write_task1
from tests.support.places import SHARED

CASES = SHARED / "cases"


def test_an_empty_init_and_other_names_of_checkpoints_in_2025(tmp_path):
    package = write_inference(tmp_path)
    (package / INFERENCE_NAME / "__init__.py").write_text("")
    (package / INFERENCE_NAME / "ckpts" / "model.ckpt").rename(package / INFERENCE_NAME / "ckpts" / "best.pth")
    assert broken(package) == {}


def test_log_losses_that_the_team_does_not_have(tmp_path):
    package = write_task1(tmp_path)

    def forget(data: dict) -> None:
        for split in data["results"]["development_dataset"].values():
            for figures in (*split["class_wise"].values(), *split["device_wise"].values(), split["overall"]):
                figures["logloss"] = None

    edit_meta(package, forget)
    results = {result.name: result for result in check_package(package)[1]}
    assert all(results[rule].holds for rule in ("meta_form", "figures_consistent", "figures_plausible"))
    edit_meta(package, lambda data: data["results"]["development_dataset"]["split_5"]["overall"].update(accuracy=99))
    assert "split_5 overall accuracy is 99" in broken(package)["figures_consistent"][0].sentence


def test_a_zip_made_on_a_mac(tmp_path):
    package = write_task1(tmp_path)
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            name = path.relative_to(tmp_path)
            archive.write(path, name)
            archive.writestr(f"__MACOSX/{name.parent}/._{name.name}", b"\0\5\x16\7")
        archive.writestr(f"{package.name}/.DS_Store", b"Bud1")
    assert broken(tmp_path / "mac.zip") == {}
    assert sum("macOS" in line for line in lines(*check_package(tmp_path / "mac.zip"))) == 1


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not there")
@pytest.mark.parametrize(
    ("place", "rules"),
    [
        ("1_empty_init_2025/Doe_EX_task1", ["package_files"]),
        ("2_meta_null_logloss/Doe_EX_task1", ["meta_form", "figures_consistent", "figures_plausible"]),
        ("3_mac_zip/Doe_EX_task1.zip", ["systems", "files", "no_other_files"]),
    ],
)
def test_the_packages_that_were_sent_in(tmp_path, place, rules):
    package = tmp_path / Path(place).name
    (shutil.copytree if (CASES / place).is_dir() else shutil.copyfile)(CASES / place, package)
    results = {result.name: result for result in check_package(package)[1]}
    assert all(results[rule].holds for rule in rules)

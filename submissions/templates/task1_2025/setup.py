"""pip install . -- installs the inference package."""

from pathlib import Path

from setuptools import find_packages, setup

(NAME,) = {
    path.parent.name for path in Path(__file__).parent.glob("*/*_[0-9].py") if path.stem[:-2] == path.parent.name
}

setup(
    name=NAME,
    version="1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["resources/*.csv", "resources/*.wav", "ckpts/*.ckpt"]},
    install_requires=Path(__file__).with_name("requirements.txt").read_text(encoding="utf-8").split(),
)

"""Annotations from Lighthouse, features from Zenodo; the recordings are YouTube videos and not distributed."""

from pathlib import Path
from typing import Literal

from common.data.archives import unpack
from common.data.download import RemoteFile, download, zenodo_files
from common.output import say

LIGHTHOUSE = "https://raw.githubusercontent.com/line/lighthouse/d095eaa"
ZENODO = "https://zenodo.org"
Part = Literal["castella", "clotho_moment", "evaluation"]
RECORDS: dict[Part, int] = {"castella": 18358706, "clotho_moment": 17129257, "evaluation": 20450254}
MD5: dict[Part, dict[str, str | None]] = {
    "castella": {
        "castella_train_release.jsonl": "937fffdcd431c89a65457c4e09097d72",
        "castella_val_release.jsonl": "7109907e4d1300eb84e8f447c5729837",
        "castella_test_release.jsonl": "fa8e3be93e23452a9474d511b1bd2409",
    },
    "clotho_moment": {
        "clotho_moment_train_release.jsonl": None,
        "clotho_moment_val_release.jsonl": "cd3707e3964ce5294ad10ad35bda2837",
        "clotho_moment_test_release.jsonl": "58193c2fe7cbcc30c79ccbbb0f95dd8c",
    },
    "evaluation": {},
}


def download_data(
    root: Path, part: Part, record: int | None = None, lighthouse: str = LIGHTHOUSE, zenodo: str = ZENODO
) -> Path:
    """Download one part into a folder; resumes after an interruption. Returns `root`.

    Annotations come from Lighthouse (of the evaluation set: from the record), features from a Zenodo record. Archives
    are unpacked into `features`; a tar archive in pieces is joined first.
    """
    for name, md5 in MD5[part].items():
        download(RemoteFile(name, f"{lighthouse}/data/{part}/{name}", md5 and f"md5:{md5}"), root)
    archives = root / "archives"
    paths = []
    for file in zenodo_files(record or RECORDS[part], archives, zenodo):
        annotations = file.name.endswith((".jsonl", ".json"))
        paths.append(download(file, root if annotations else archives))
    for archive in _joined([path for path in paths if path.parent == archives]):
        unpack(archive, root / "features")
        say(f"Unpacked {archive.name}.")
    return root


def _joined(paths: list[Path]) -> list[Path]:
    """Whole archives; pieces such as x.tar.gz.aa and x.tar.gz.ab are joined in the order of their names."""
    whole = [path for path in paths if path.name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))]
    stems = {path.with_suffix("") for path in paths if path not in whole and ".tar" in path.with_suffix("").name}
    for stem in sorted(stems):
        pieces = sorted(path for path in paths if path.with_suffix("") == stem)
        if not stem.is_file() or stem.stat().st_size != sum(piece.stat().st_size for piece in pieces):
            with stem.open("wb") as file:
                for piece in pieces:
                    with piece.open("rb") as part:
                        while block := part.read(2**24):
                            file.write(block)
        whole.append(stem)
    return whole

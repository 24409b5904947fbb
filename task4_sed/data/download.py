"""Download of MAESTRO Real; DESED is distributed by its own package."""

from pathlib import Path

from common.data.archives import unpack
from common.data.download import download, zenodo_files
from common.errors import UserError
from task4_sed.data.maestro import prepare

MAESTRO_RECORD = 7244360
MAESTRO_ARCHIVES = ("development_audio.zip", "development_annotation.zip")
HOW_TO_GET_DESED = (
    "DESED comes with the package `desed` (pip install desed) or from its Zenodo records, which project.inria.fr/desed "
    "lists; ask the organisers for YouTube clips that are gone. `data check` names missing clips."
)


def download_maestro(root: Path, hop_seconds: float = 5, delete_archives: bool = False) -> dict[str, int]:
    """Download MAESTRO Real and cut it into the windows of the challenge; resumes after an interruption.

    Returns the number of windows by set. Recordings stay in `root/MAESTRO_original`; `hop_seconds` is of the validation
    windows.

    Raises:
        UserError: as `common.data.download.download`, `common.data.archives.unpack` and `maestro.prepare`.
    """
    archives, source = Path(root) / "archives", Path(root) / "MAESTRO_original" / "maestro_dev"
    known = {file.name: file for file in zenodo_files(MAESTRO_RECORD, archives)}
    for name in MAESTRO_ARCHIVES:
        if name not in known:
            raise UserError(f"Zenodo record {MAESTRO_RECORD} has no {name}; it has {', '.join(sorted(known))}.")
        archive = download(known[name], archives)
        unpack(archive, source)
        if delete_archives:
            archive.unlink()
    return prepare(source, Path(root), hop_seconds)

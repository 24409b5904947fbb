"""Download of TAU Urban Acoustic Scenes from Zenodo, and of the split lists of the DCASE 2024 challenge."""

from pathlib import Path

from common.data.archives import download_and_unpack
from common.data.download import RemoteFile, download, zenodo_files
from common.errors import UserError
from task1_asc.data.tau2022 import DEVELOPMENT, EVALUATION, SUBSETS

DEVELOPMENT_RECORD = 6337421
EVALUATION_RECORDS = {2023: 7870258, 2025: 15517945}
SPLIT_LISTS = "https://github.com/CPJKU/dcase2024_task1_baseline/releases/download/files"
# As published with the record; part: md5.
DEVELOPMENT_MD5 = {
    "doc": "9c4f610bdb5d3e3e72a17d393a26452a",
    "meta": "419b6ff6570f1030730352dc80cd8d15",
    "audio.1": "8be14bdbd844481dce059ab31fbd2239",
    "audio.2": "e821abda49b069248bb75eab39df7575",
    "audio.3": "9c7897f78bb42ca0008936daddf3f8f3",
    "audio.4": "53ec3e37c0fc0be75f53c5abbc5300b8",
    "audio.5": "528422c33c5d10263203d2c61cb1f3be",
    "audio.6": "4759a9465c903e13e57d5e82e791fc28",
    "audio.7": "6d545fc83a55a17856a9ccc1ac9aff6b",
    "audio.8": "3a2916a9b5d3f43cc7a22a62b180b0d9",
    "audio.9": "071f664c86639ad730f7be4e3c39d886",
    "audio.10": "e0839d019e9b77ecbcbb0eff85965530",
    "audio.11": "fc60f1c83726be3963ae14fbcb95eeb4",
    "audio.12": "02246547f86c0a814dc63ec65d7033bb",
    "audio.13": "88ae9ef884665140d1572d8061725e00",
    "audio.14": "c3f400d74ae90e5190dc518cde43de47",
    "audio.15": "85594c6fe4f91c10aa2a410f748103b8",
    "audio.16": "6e2df8438c69f6789414aeba8cbad9d8",
}


def development_files() -> list[RemoteFile]:
    """The archives of the development set; tables first."""
    names = {part: f"{DEVELOPMENT}.{part}.zip" for part in DEVELOPMENT_MD5}
    address = f"https://zenodo.org/records/{DEVELOPMENT_RECORD}/files"
    return [
        RemoteFile(name, f"{address}/{name}?download=1", f"md5:{DEVELOPMENT_MD5[part]}") for part, name in names.items()
    ]


def split_files() -> list[RemoteFile]:
    """The lists of the training subsets and the test split; their publisher gives no checksums."""
    names = [f"split{subset}.csv" for subset in SUBSETS] + ["test.csv"]
    return [RemoteFile(name, f"{SPLIT_LISTS}/{name}") for name in names]


def download_data(
    root: Path, year: int | None = None, record: int | None = None, delete_archives: bool = False
) -> Path:
    """Download and unpack the development set with its split lists, or an evaluation set; resumes when repeated.

    Args:
        root: folder that will hold the data; archives are kept in `root/archives`.
        year: of an evaluation set; None takes the development set (25.6 GiB, and as much again unpacked).
        record: Zenodo record of the evaluation set, if the kit does not know it (2024).
        delete_archives: remove each archive after unpacking.

    Returns:
        The data set's folder.

    Raises:
        UserError: as `common.data.download.download` and `common.data.archives.unpack`.
    """
    root = Path(root)
    archives = root / "archives"
    if year is None:
        files, folder = development_files(), root / DEVELOPMENT
        for file in split_files():
            download(file, root / "split_setup")
    else:
        files, folder = _evaluation_files(year, record, archives), root / EVALUATION.format(year=year)
    for file in files:
        download_and_unpack(file, archives, root, delete_archives)
    return folder


def _evaluation_files(year: int, record: int | None, archives: Path) -> list[RemoteFile]:
    record = record or EVALUATION_RECORDS.get(year)
    if record is None:
        raise UserError(
            f"The kit does not know the Zenodo record of the {year} evaluation set. Find it from the task's page on "
            "dcase.community and give the number at the end of its address with --record."
        )
    files = [file for file in zenodo_files(record, archives) if file.name.endswith(".zip")]
    expected = EVALUATION.format(year=year)
    if not files or not all(file.name.startswith(expected) for file in files):
        raise UserError(f"Zenodo record {record} holds no {expected}.*.zip; give another --record.")
    return files

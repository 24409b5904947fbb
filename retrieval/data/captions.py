"""Captioned audio: one manifest per data set, whatever its layout on disk.

A manifest is a table with one row per clip: dataset, split, file_name (byte for byte, leading blanks and all), path,
captions (a tuple) and source_id (text).
"""

import ast
import hashlib
import io
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import pandas as pd

from common.data.files import is_made_up, paths_in, read_json
from common.errors import UserError, unknown

COLUMNS = ["dataset", "split", "file_name", "path", "captions", "source_id"]
READ = COLUMNS[2:]

# Zenodo 4783391. Rows (clips), md5 of the caption table.
CLOTHO = {
    "development": (3839, "d4090b39ce9f2491908eebf4d5b09bae"),
    "validation": (1045, "5879e023032b22a2c930aaa0528bead4"),
    "evaluation": (1045, "1b16b9e57cf7bdb7f13a13802aeb57e2"),
}
AUDIOCAPS = {"train": 49838, "val": 495, "test": 975}  # clips of version 1
WAVCAPS = {  # folder: (json file, clips)
    "FreeSound": ("fsd_final.json", 262300),
    "BBC_Sound_Effects": ("bbc_final.json", 31201),
    "SoundBible": ("sb_final.json", 1232),
    "AudioSet_SL": ("as_final.json", 108317),
}
COUNTS = {
    "clotho": {split: count for split, (count, _) in CLOTHO.items()},
    "audiocaps": AUDIOCAPS,
    "wavcaps": {source: count for source, (_, count) in WAVCAPS.items()},
}
# Broken files of WavCaps AudioSet_SL, left out by the systems of 2024 and 2025.
WAVCAPS_BROKEN = {"Y06-g5jz-OGc", "Y3sSblRfEG2o", "YFli8wjBFV2M", "YVcu0pVF1npM", "YWudGD6ZHRoY", "YmW3S0u8bj58"}
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


class MissingTable(UserError):
    """A folder without the table of a data set."""


def read_manifest(dataset: str, root: Path, split: str) -> pd.DataFrame:
    """Manifest of one split.

    Args:
        dataset: clotho, audiocaps, wavcaps or folder (a folder of audio with `captions.csv` in Clotho's columns).
        root: folder of the data set; the layouts of Zenodo, aac-datasets and the 2024 winner are found.
        split: its split, as the data set calls it.

    Raises:
        UserError: if a table is missing, has empty captions or repeated names, or the split is unknown.
    """
    if dataset not in READERS:
        raise unknown("data set", dataset, READERS)
    if split not in COUNTS.get(dataset, {split: 0}):
        raise unknown(f"split of {dataset}", split, COUNTS[dataset])
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. Set `root` in the group `data` to the folder that holds {dataset}.")
    manifest = READERS[dataset](root, split).assign(dataset=dataset, split=split)
    if manifest.empty:
        raise UserError(f"{root} holds no clips of this split")
    _refuse_repeated(manifest["path"].map(str), root)
    return manifest[COLUMNS].reset_index(drop=True)


def read_clotho(root: Path, split: str) -> pd.DataFrame:
    """Clotho v2.1: `clotho_captions_<split>.csv`, `clotho_metadata_<split>.csv` and a folder of wavs."""
    table = read_caption_table(_find(root, f"clotho_captions_{split}.csv"))
    names = table["file_name"]
    folder = next((f for f in clotho_folders(root, split) if any(map(Path.is_file, paths_in(f, names)))), root / split)
    try:
        metadata = _read_text_table(_find(root, f"clotho_metadata_{split}.csv"))
    except UserError:
        metadata = pd.DataFrame({"file_name": [], "sound_id": []})
    ids = dict(zip(metadata["file_name"], metadata["sound_id"], strict=True))
    return table.assign(path=paths_in(folder, names), source_id=[ids.get(name, "Not found") for name in names])


def clotho_folders(root: Path, split: str) -> list[Path]:
    """Folders that may hold the audio of a split, the likeliest first."""
    archive = f"clotho_audio_{split}"
    return [folder for name in (split, f"{archive}/{split}", archive) for folder in _folders(root, name)]


def read_caption_table(path: Path) -> pd.DataFrame:
    """Columns file_name and captions (tuple) of a table `file_name,caption_1..caption_n`.

    Raises:
        UserError: with file and row, if a caption is empty, a name is repeated or a column is missing.
    """
    table = _read_text_table(path)
    caption_columns = [column for column in table.columns if column.startswith("caption")]
    if "file_name" not in table.columns or not caption_columns:
        raise UserError(f"{path} needs the columns file_name, caption_1, ...; it has {', '.join(table.columns)}")
    captions = list(table[caption_columns].itertuples(index=False, name=None))
    for row, texts in enumerate(captions):
        for column, caption in zip(caption_columns, texts):
            if not caption.strip():
                raise UserError(f"{path}:{row + 2}: {column} of {table['file_name'][row]!r} is empty")
    _refuse_repeated(table["file_name"], path)
    return pd.DataFrame({"file_name": table["file_name"], "captions": captions})


def read_audiocaps(root: Path, split: str) -> pd.DataFrame:
    """AudioCaps: `<split>.csv`, one caption per row; clips are `<youtube_id>_<start_time>` in a folder `<split>`."""
    path = _find(root, f"{split}.csv", f"audiocaps_v1_{split}.csv")
    table = _read_text_table(path, "youtube_id", "start_time", "caption")
    for row, caption in enumerate(table["caption"], start=2):
        if not caption.strip():
            raise UserError(f"{path}:{row}: the caption is empty")
    folders = _folders(root, split)
    rows = []
    for (youtube_id, start), group in table.groupby(["youtube_id", "start_time"], sort=False):
        audio = _find_audio(folders, f"{youtube_id}_{start}")
        rows.append((audio.name, audio, tuple(group["caption"]), youtube_id))
    return pd.DataFrame(rows, columns=READ)


def read_wavcaps(root: Path, split: str) -> pd.DataFrame:
    """WavCaps: `split` is one of its four sources; `json_files/<source>/*.json`, `<id>.flac` in the source's folder."""
    path = _find(root, f"json_files/{split}/{WAVCAPS[split][0]}", WAVCAPS[split][0])
    items = read_json(path, "take it from WavCaps again", {"data": list})["data"]
    if unnamed := next((n for n, item in enumerate(items, 1) if not isinstance(item, dict) or "id" not in item), None):
        raise UserError(f"{path}: entry {unnamed} of data has no id; take it from WavCaps again.")
    folders = _folders(root, split)
    rows = []
    for number, item in enumerate(items):
        source_id = str(item["id"]).removesuffix(".wav")  # ids of AudioSet_SL end in .wav, their files in .flac
        if source_id in WAVCAPS_BROKEN:
            continue
        if not str(item.get("caption", "")).strip():
            raise UserError(f"{path}: item {number} ({source_id}) has no caption")
        audio = _find_audio(folders, source_id)
        rows.append((audio.name, audio, (item["caption"],), source_id))
    return pd.DataFrame(rows, columns=READ)


def read_folder(root: Path, split: str) -> pd.DataFrame:
    """Own data: `<root>/<split>/` of audio and `<root>/captions_<split>.csv` (or captions.csv inside the folder)."""
    folder = root / split
    path = next((p for p in (root / f"captions_{split}.csv", folder / "captions.csv") if p.is_file()), None)
    if path is None:
        raise UserError(f"{root} has neither captions_{split}.csv nor {split}/captions.csv")
    table = read_caption_table(path)
    return table.assign(path=paths_in(folder, table["file_name"]), source_id=table["file_name"])


READERS: dict[str, Callable[[Path, str], pd.DataFrame]] = {
    "clotho": read_clotho,
    "audiocaps": read_audiocaps,
    "wavcaps": read_wavcaps,
    "folder": read_folder,
}


def check_split(manifest: pd.DataFrame, root: Path) -> list[str]:
    """Differences from the official counts and checksums, and missing files, one sentence each."""
    dataset, split = manifest["dataset"].iloc[0], manifest["split"].iloc[0]
    problems = []
    if not is_made_up(root):
        expected = COUNTS.get(dataset, {}).get(split)
        if expected not in (None, len(manifest)):
            problems.append(f"{dataset} {split} has {len(manifest)} clips, officially {expected}")
        if dataset == "clotho":
            path = _find(Path(root), f"clotho_captions_{split}.csv")
            if hashlib.md5(path.read_bytes()).hexdigest() != CLOTHO[split][1]:
                problems.append(f"{path} is not the file of Zenodo record 4783391 (another md5)")
    missing = missing_files(manifest)
    if missing:
        problems.append(
            f"{dataset} {split}: {len(missing)} of {len(manifest)} audio files are missing, the first is {missing[0]}"
        )
    return problems


def missing_files(manifest: pd.DataFrame) -> list[Path]:
    """Audio files of a manifest that are absent or empty."""
    return [path for path in manifest["path"] if not path.is_file() or path.stat().st_size == 0]


def read_exclusions(path: Path) -> frozenset[str]:
    """Source ids that may not be trained on, as text: a csv (column `sound_id`, `id` or the first) or JSON lists.

    Raises:
        UserError: if the file is absent or holds no id.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. It should list the ids that may not be trained on.")
    if path.suffix == ".json":
        data = read_json(path, "give a list of ids, or lists by name", kind=object)
        lists = list(data.values()) if isinstance(data, dict) else [data]
        if not all(isinstance(items, list) for items in lists):
            raise UserError(f"{path} holds no lists of ids; give a list of ids, or lists by name.")
        ids = {str(item) for items in lists for item in items}
    else:
        # As text: read as integers, a membership test against file names would exclude nothing without a word.
        table = _read_text_table(path)
        column = next((c for c in ("sound_id", "id") if c in table.columns), table.columns[0])
        ids = set(table[column])
    ids = {name.removesuffix(".wav") for name in ids} - {"", "Not found"}
    if not ids:
        raise UserError(f"{path} lists no ids")
    return frozenset(ids)


def exclude(manifest: pd.DataFrame, ids: Iterable[str], name: str) -> tuple[pd.DataFrame, int]:
    """Clips of other sources than `ids`, and the number of the removed ones.

    Raises:
        UserError: if nothing is removed, which means that the ids are of another kind than the manifest's.
    """
    forbidden = set(ids)
    hit = is_excluded(manifest, forbidden)
    if not hit.any():
        example = manifest["source_id"].iloc[0] if len(manifest) else "(no clip)"
        raise UserError(
            f"{name} removes nothing from {len(manifest)} clips: its ids (such as {min(forbidden)!r}) and the "
            f"clips' (such as {example!r}) have nothing in common. Use the list that belongs to this data set, or none."
        )
    return manifest[~hit].reset_index(drop=True), int(hit.sum())


def is_excluded(manifest: pd.DataFrame, ids: Collection[str]) -> pd.Series:
    """Whether the source, or the file name without ending, of each clip is among the ids."""
    stems = manifest["file_name"].map(lambda name: Path(name).stem)
    return manifest["source_id"].isin(ids) | stems.isin(ids)


def leaks(training: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """Training clips with a source in the evaluation set; sources named "Not found" match nothing."""
    known = set(evaluation["source_id"]) - {"Not found", ""}
    return training[training["source_id"].isin(known)]


def read_relevance(path: Path) -> dict[str, tuple[str, ...]]:
    """DCASE 2025 annotation: query caption to the file names that are relevant for it.

    Columns `query` and `audio_filenames` (a list in Python's notation, read as a literal, never executed).
    """
    table = _read_text_table(path, "query", "audio_filenames")
    relevant = {}
    for row, (query, names) in enumerate(zip(table["query"], table["audio_filenames"], strict=True), start=2):
        try:
            relevant[query] = tuple(ast.literal_eval(names))
        except (ValueError, SyntaxError) as error:
            raise UserError(f"{path}:{row}: audio_filenames is not a list of names") from error
    return relevant


def read_queries(path: Path) -> list[str]:
    """The column `caption` of a table of queries, in its order, repeated queries kept."""
    return list(_read_text_table(path, "caption")["caption"])


def _refuse_repeated(names: pd.Series, where: Path) -> None:
    repeated = names[names.duplicated()]
    if len(repeated):
        row = repeated.index[0] + 2
        raise UserError(f"{where}:{row}: {repeated.iloc[0]!r} is listed twice; keep one row per clip")


def _read_text_table(path: Path, *columns: str) -> pd.DataFrame:
    """A csv with these columns and every cell as the text it is: no "NA" turned into a number, no blank stripped."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("iso-8859-1")  # Clotho's metadata
    try:
        table = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is not a table: {error}") from error
    if absent := [column for column in columns if column not in table.columns]:
        raise MissingTable(f"{path} has no column {', '.join(absent)}; it has {', '.join(table.columns)}")
    return table


def _find(root: Path, *names: str) -> Path:
    places = ("", "clotho_v2", "clotho_csv_files", "CLOTHO_v2.1/clotho_csv_files", "AUDIOCAPS", "WavCaps", "wavcaps")
    for place in places:
        for name in names:
            if (root / place / name).is_file():
                return root / place / name
    raise MissingTable(f"{root} has no {names[0]}, also not in {', '.join(p for p in places if p)}")


def _folders(root: Path, split: str) -> list[Path]:
    places = (
        "", "audio", "Audio", "clotho_v2", "clotho_audio_files", "CLOTHO_v2.1/clotho_audio_files", "audio_32000Hz",
        "AUDIOCAPS/audio_32000Hz", "WavCaps/Audio", "wavcaps/audio",
    )  # fmt: skip
    return [root / place / split for place in places if (root / place / split).is_dir()]


def _find_audio(folders: list[Path], stem: str) -> Path:
    for folder in folders:
        for suffix in (".flac", *AUDIO_SUFFIXES):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    folder = folders[0] if folders else Path()
    return folder / f"{stem}.flac"

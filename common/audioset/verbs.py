"""Verbs of training and data on AudioSet, for `python -m common`. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.cli import Positional, Verb, print_json, print_table, say, train_verb
from common.errors import CheckFailed
from common.registry.models import find_architecture
from common.runs.folder import refuse_absent, refuse_no_run

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

SMALL = "common/audioset/configs/small.yaml"


def load_pretraining() -> "Recipe[PretrainSettings]":
    """Import the recipe of `pretrain`."""
    from common.audioset.recipe import RECIPE

    return RECIPE


def load_fine_tuning() -> "Recipe[FineTuneSettings]":
    """Import the recipe of `finetune`."""
    from common.audioset.finetune import RECIPE

    return RECIPE


def settings_for_data(data: Path) -> tuple[Path, dict[str, Any]]:
    """The configuration of `finetune` for a folder or a table of clips."""
    from common.audioset.tasks import find_table
    from common.runs.folder import ROOT

    table = data if data.suffix in (".csv", ".tsv") else find_table(data) if data.is_dir() else None
    root = data if table != data else data.parent
    chosen = {"data.task": "folder"} if table is None else {"data.task": "table", "data.table": {"file": table.name}}
    name = root.resolve().name if table is None else table.stem
    return ROOT / "common/audioset/configs/table_own.yaml", {"name": name, "data.root": str(root), **chosen}


def read_clips(settings: FineTuneSettings) -> None:
    """Refuse clips and weights that cannot be found."""
    from common.audioset.tables import refuse_missing
    from common.audioset.tasks import read_task

    refuse_missing(settings)
    read_task(settings.data)


def find_audioset(settings: PretrainSettings) -> None:
    """Refuse missing files of AudioSet, of a teacher and of weights."""
    from common.audioset.tables import refuse_missing_audioset

    refuse_missing_audioset(settings)


def check_clips(clips: Positional[Path], *, json: bool = False) -> None:
    """Check the clips that `finetune` would train on: counts of each part and class, damaged and missing files.

    Example: my_sounds

    Args:
        clips: folder of class folders, folder with a table, or table.
        json: print the report as JSON.
    """
    from common.audioset.check import check_clips as check
    from common.audioset.tasks import refuse_no_clips
    from common.settings import load_settings

    refuse_no_clips(clips)
    config, settings = settings_for_data(clips)
    check(load_settings(FineTuneSettings, config, settings).data).show(json)


def show_figures(finished: "Run[Any]") -> None:
    """Print the test figures of a run of `pretrain` or `finetune`."""
    from common.audioset.evaluate import print_tagging

    print_tagging(finished)


def pack_audioset(
    *,
    root: Path,
    audio: Path,
    split: Literal["balanced_train", "unbalanced_train", "eval"],
    encode_rate: int | None = None,
    clips_per_file: int = 50_000,
) -> None:
    """Pack the clips of an AudioSet split into HDF5 files, and list missing and broken clips.

    Example: --root data/audioset --audio clips --split eval

    Args:
        root: folder of the segment tables; the HDF5 files are written there.
        audio: folder of the clips, with subfolders: Y<video>.mp3, or <video> with any extension that soundfile reads.
        split: name of the segment table.
        encode_rate: Hz; encode every clip as mono mp3 at this rate. By default the clips' own bytes are stored.
        clips_per_file: segments per file; after an interruption packing resumes with the first unfinished file.
    """
    from common.audioset.packing import pack_split

    report = pack_split(root, audio, split, encode_rate, clips_per_file)
    say(str(report))
    if report.not_found or report.num_broken:
        say(f"Missing and broken clips are listed in {report.list_of_missing}.")


def check_audioset(*, root: Path, decode: int = 100, json: bool = False) -> None:
    """Compare the HDF5 files of AudioSet with its segment tables, and decode some clips.

    Example: --root data/audioset

    Args:
        root: folder of the tables and files.
        decode: number of clips per split to decode, drawn at random.
        json: print the counts and problems as JSON.
    """
    refuse_absent([root], "give the folder of the segment tables and HDF5 files")
    from common.audioset.packing import check_audioset as check

    rows, problems = check(root, decode)
    print_json({"splits": rows, "problems": problems}) if json else print_table(rows, title=str(root))
    if problems:
        raise CheckFailed("\n".join(problems))
    say("No problems found; missing clips are usually no longer on YouTube.")


def write_logits(
    teachers: Positional[tuple[str, ...]],
    *,
    root: Path,
    out: Path,
    files: tuple[str, ...] = ("balanced_train_segments_mp3*.hdf", "unbalanced_train_segments_mp3*.hdf"),
    seconds: float | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
) -> None:
    """Write the mean logits of one or several teachers for every clip, for `teacher.logits` of `pretrain`.

    Example: passt_s_swa.as --root data/audioset --out logits.hdf5

    Args:
        teachers: run folders of `pretrain`, models such as passt_s_swa.as, or models with weights: mn04.as=FILE.
        root: folder of AudioSet.
        out: HDF5 file to write.
        files: names of the HDF5 files in `root`, with * and ?.
        seconds: length of the clips; by default as in the training of the first run, 10 without a run.
        batch_size: clips per batch.
        num_workers: processes for decoding.
    """
    for name in (name.partition("=")[0] for name in teachers):
        if not Path(name).exists():
            find_architecture(name)  # refuses unknown names, without torch
    refuse_absent([root], "give the folder of AudioSet")
    from common.audioset.teachers import write_teacher_logits

    count = write_teacher_logits(teachers, root, out, files, seconds, batch_size, num_workers)
    say(f"Wrote the logits of {count:,} clips to {out}.")


def import_logits(*, array: Path, index: Path, out: Path) -> None:
    """Convert the published ensemble's logits (passt_enemble_logits_mAP_495.npy) to a file for `teacher.logits`.

    Example: --array logits.npy --index fname_to_index.pkl --out logits.hdf5

    Args:
        array: the .npy file.
        index: fname_to_index.pkl.
        out: HDF5 file to write.
    """
    from common.audioset.teachers import import_published_logits

    say(f"Wrote the logits of {import_published_logits(array, index, out):,} clips to {out}.")


def evaluate_tagging(run: Positional[Path], *, json: bool = False) -> None:
    """Print the test figures of a run of `pretrain` or `finetune`, with 95 % intervals.

    Example: runs/audioset/small

    Args:
        run: run folder.
        json: print all figures as JSON.
    """
    refuse_no_run(run)
    from common.audioset.evaluate import open_tagging_run, print_tagging

    finished = open_tagging_run(run)
    print_json(finished.read_evaluation()) if json else print_tagging(finished, classes=True)


VERBS: dict[str, Verb] = {
    "pretrain": train_verb(
        PretrainSettings,
        load_pretraining,
        show_figures,
        "Train a tagging network on AudioSet, optionally with teacher logits, and test it.",
        SMALL,
        check=find_audioset,
    ),
    "finetune": train_verb(
        FineTuneSettings,
        load_fine_tuning,
        show_figures,
        "Fine-tune a tagging network on ESC-50, FSD50K, OpenMIC, or on DIR or clips.csv (in place of CONFIG.yaml).",
        config_of=settings_for_data,
        check=read_clips,
    ),
    "data": {"check": check_clips},
    "audioset": {
        "pack": pack_audioset,
        "check": check_audioset,
        "logits": write_logits,
        "import_logits": import_logits,
        "evaluate": evaluate_tagging,
    },
}

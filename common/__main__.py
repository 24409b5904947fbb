"""Verbs that no single task owns: made-up data, models, training on AudioSet, checks of the machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.cli import Positional, Precision, Repeated, Verb, print_json, print_table, run, say, train_verb
from common.errors import CheckFailed, UserError
from common.inference.early import refuse_early
from common.runs.folder import refuse_absent, refuse_no_run

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

SMALL = "common/audioset/configs/small.yaml"


def synthesize(task: Positional[str], *, root: Path, clips: int | None = None, seed: int = 0) -> None:
    """Write a small made-up data set in the official layout of a task.

    Example: task1_asc --root data/made_up/task1_asc --clips 100

    Args:
        task: task1_asc, task4_sed, retrieval, moments, imitation or audioset.
        root: folder of the data set.
        clips: approximate number of clips; by default as many as the demo needs.
        seed: equal seeds give equal files.
    """
    from common.synthetic.synthesize import synthesize as write

    counts = write(task, root, clips, seed)
    say(f"Wrote made-up data to {root}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}.")


def models(pattern: Positional[str] = "*", *, json: bool = False) -> None:
    """List the models, each followed by its released weights.

    Example: "mn*"

    Args:
        pattern: names to list, such as "mn*".
        json: print all details as JSON.
    """
    from common.registry.models import describe_models, summary_row

    rows = describe_models(pattern)
    if json:
        print_json(rows)
    else:
        print_table([summary_row(row) for row in rows])


def complexity(
    model: Positional[str], *, set: Repeated[str] = (), precision: str | None = None, json: bool = False
) -> None:
    """Count the parameters, bytes and multiply-accumulate operations (MACs) of a model.

    Example: mn10.as --precision int8

    Args:
        model: a name from `models`, a run folder, or a CONFIG.yaml, before its training.
        set: setting of a run or CONFIG.yaml to replace, such as model.base_channels=24; may be repeated.
        precision: of the bytes: float32, float16, bfloat16 or int8; by default float32, of Task 1 the submitted one.
        json: print the figures as JSON.
    """
    if "/" not in model and not model.endswith(".yaml"):
        refuse_early(model)
    from common.inference.complexity import describe, table_rows

    figures = describe(model, precision, set)
    print_json(figures) if json else print_table(table_rows(figures))


def tag(
    files: Positional[list[Path]],
    *,
    model: str,
    weights: Path | None = None,
    top: int = 10,
    events: Path | None = None,
    threshold: float | None = None,
    median: int | None = None,
    window: float = 5.0,
    hop: float = 1.0,
    precision: Precision = "float32",
    json: bool = False,
) -> int:
    """Tag audio files of any length, sample rate and format.

    Example: my.wav --model mn10.as --top 5

    Args:
        files: audio files, or folders of them.
        model: such as mn10.as, frame_mn10.strong for exact times of events, or a run folder of any task (of
            `finetune` with folds: RUN/train/fold_1).
        weights: file of released weights; by default from the cache or a download.
        top: number of labels per file.
        events: also write onset, offset, label and score of events to this file (tab-separated).
        threshold: minimum score of an active event; by default 0.5 for frame models, 0.3 for clip models.
        median: length of the median filter in frames; by default 9 (360 ms) for frame models, 1 for clip models.
        window: seconds of the windows of a clip model with --events; MN and PaSST get worse below 5 s.
        hop: seconds between the starts of two windows; also the resolution of the event times.
        precision: of the network: float32, bf16, or auto, bf16 where this machine is quicker with it.
        json: print the result as JSON.
    """
    refuse_early(model, *files, out=events)
    from common.inference.prepare import computing_in
    from common.inference.tagging import EventOptions, tag_files

    with computing_in(precision, model):
        rows, failed = tag_files(files, model, weights, top, events, EventOptions(threshold, median, window, hop))
    if json:
        print_json(rows)
    else:
        print_table([{"filename": row["filename"], **tags} for row in rows for tags in row["tags"]])
    return 2 if failed else 0


def serve(
    *,
    model: str = "mn04.as",
    weights: Path | None = None,
    index: Path | None = None,
    run: Path | None = None,
    port: int | None = None,
) -> None:
    """Show a page in the browser of this machine: drop or record a sound and see its tags. Needs gradio.

    Example: --model mn10.as

    Args:
        model: tagger, as for `tag`.
        weights: file of released weights; by default from the cache or a download.
        index: index of `retrieval index` to search and listen to.
        run: finished run of Task 4 that scores a sound over time.
        port: of the page; by default the first free one from 7860 on.
    """
    refuse_early(model)
    from common.inference.page import serve as show

    show(model, weights, index, run, port)


def embed(
    folder: Positional[Path], *, model: str, out: Path, weights: Path | None = None, precision: Precision = "float32"
) -> None:
    """Write one embedding for each audio file in a folder and its subfolders.

    Example: sounds --model mn10.as --out embeddings.npz

    Args:
        folder: folder of the audio files.
        model: a model such as mn10.as, a HEAR embedding such as mn10_all_b_mel_avgs or passt_base, or a run folder
            of any task.
        out: .npz (arrays filename and embedding) or .parquet (columns of these names).
        weights: file of released weights; by default from the cache or a download.
        precision: of the network: float32, bf16, or auto, bf16 where this machine is quicker with it.
    """
    refuse_early(model, folder, hear=True, out=out)
    from common.inference.embedding import embed_folder
    from common.inference.prepare import computing_in

    with computing_in(precision, model):
        count, size = embed_folder(folder, model, out, weights)
    say(f"Wrote {count:,} embeddings of {size:,} values to {out}.")


def probe(
    source: Positional[Path],
    *,
    model: str,
    weights: Path | None = None,
    folds: tuple[str, ...] = (),
    grid: str = "published",
    first_best: bool = False,
    precision: Precision = "float32",
    json: bool = False,
) -> None:
    """Score the embeddings of a model on a labelled data set with HEAR's shallow evaluation.

    Example: table.csv --model mn10.as --grid faster

    Args:
        source: table (csv, tsv) with the columns filename, label and fold, or its folder.
        model: a model or a HEAR embedding, as for `embed`.
        weights: file of released weights; by default from the cache or a download.
        folds: test these folds only.
        grid: size of the hyper-parameter search: published, fast or faster.
        first_best: on equal validation scores keep the first model, as HEAR does, instead of the lowest loss.
        precision: of the embeddings: float32, bf16, or auto, bf16 where this machine is quicker with it.
        json: print the result as JSON.
    """
    refuse_early(model, source, hear=True)
    from common.inference.probe import probe as evaluate
    from common.reports.statistics import with_interval

    result = evaluate(source, model, weights, grid, folds, first_best, precision)
    if json:
        print_json(result)
        return
    metric, limits = result["metric"], result["interval"]
    rows = [{"fold": fold, metric: with_interval(score, scale=100)} for fold, score in result["folds"].items()]
    print_table(rows, title=f"{metric}, per cent")
    mean = with_interval(result["score"], *(limits or ()), scale=100)
    kind = ", 95 % by bootstrap over clips" if limits else ""
    print(f"{metric} {mean}{kind}; standard deviation over folds {100 * result['standard_deviation']:.1f}")


def export(
    name: Positional[str],
    *,
    out: Path,
    weights: Path | None = None,
    seconds: float | None = None,
    no_check: bool = False,
) -> None:
    """Write a model with its front end as ONNX: waveform in, scores out.

    Example: mn10.as --out mn10.onnx

    Args:
        name: a model, or a run folder of any task; an architecture without weights gets random ones.
        out: .onnx file.
        weights: file of released weights; by default from the cache or a download.
        seconds: length of the input clips; by default the model's window. Any batch size works (DyMN: 1).
        no_check: skip the comparison with PyTorch on made-up clips.
    """
    refuse_early(name, out=out)
    from common.inference.export import export_onnx

    report = export_onnx(name, out, weights, seconds, check=not no_check)
    print_table([report])


def doctor(*, json: bool = False) -> None:
    """Check that this machine has everything the kit needs, with advice on what is missing.

    Example: --json

    Args:
        json: print the findings as JSON.
    """
    from dataclasses import asdict

    from common.cli.doctor import examine

    findings = examine()
    rows = [asdict(finding) for finding in findings]
    print_json(rows) if json else print_table(rows)
    broken = [finding.part for finding in findings if finding.state in ("missing", "wrong")]
    if broken:
        raise CheckFailed(f"To repair: {', '.join(broken)}.")


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

    if not data.is_dir() and not (data.suffix in (".csv", ".tsv") and data.is_file()):
        found = "is neither a folder of clips nor a table of them" if data.exists() else "does not exist"
        raise UserError(f"{data} {found}; give a folder of class folders, or a table (.csv, .tsv).")
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
    from common.settings import load_settings

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
    for name in teachers:
        refuse_early(name.partition("=")[0])
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
    "synthesize": synthesize,
    "models": models,
    "complexity": complexity,
    "tag": tag,
    "serve": serve,
    "embed": embed,
    "probe": probe,
    "export": export,
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
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(run("python -m common", VERBS))

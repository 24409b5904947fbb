"""What no single task owns: made-up data, models, training on AudioSet, and a look at the machine."""

import sys
from pathlib import Path
from typing import Literal

from common.audioset.settings import FineTuneSettings, PretrainSettings
from common.cli import Positional, Repeated, Verb, config_verb, print_json, print_table, run, say
from common.errors import CheckFailed

SMALL = "common/audioset/configs/small.yaml"


def synthesize(task: Positional[str], *, root: Path, clips: int | None = None, seed: int = 0) -> None:
    """Write a small made-up data set in the official layout of a task.

    Args:
        task: task1_asc, task4_sed, retrieval, imitation or audioset.
        root: folder that will hold the data set.
        clips: about how many clips; left out, as many as the demo needs.
        seed: the same seed gives the same files.
    """
    from common.synthetic.synthesize import synthesize as write

    counts = write(task, root, clips, seed)
    say(f"Wrote made-up data to {root}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}.")


def models(pattern: Positional[str] = "*", *, json: bool = False) -> None:
    """Show the models, each followed by its released weights.

    Args:
        pattern: names to show, such as "mn*".
        json: print everything that is known of them as JSON.
    """
    from common.registry.released import describe_models, summary_row

    rows = describe_models(pattern)
    if json:
        print_json(rows)
    else:
        print_table([summary_row(row) for row in rows])


def complexity(model: Positional[str], *, precision: str = "float32", json: bool = False) -> None:
    """Count the parameters, bytes and multiply-accumulate operations (MACs) of a model or of the model of a run.

    Args:
        model: a name that `models` lists, or a run folder.
        precision: what the bytes are given for: float32, float16, bfloat16 or int8.
        json: print the figures as JSON.
    """
    from common.inference.complexity import describe, table_rows

    figures = describe(model, precision)
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
    json: bool = False,
) -> int:
    """Say what is heard in audio files of any length, rate and format.

    Args:
        files: audio files, or folders of them.
        model: such as mn10.as, frame_mn10.strong for exact times of events, or the folder of a run of `pretrain` or
            `finetune` (of one with folds, RUN/train/fold_1).
        weights: file of released weights; left out, the cache or a download.
        top: labels for each file.
        events: also write onset, offset, label and score of events to this file (tab-separated).
        threshold: score from which on an event is active; left out, 0.5 for frame models and 0.3 for clip models.
        median: length of the median filter in frames; left out, 9 (360 ms) for frame models, 1 for clip models.
        window: seconds that a clip model hears at once for --events; MN and PaSST get worse below 5 s.
        hop: seconds from one such window to the next, and the step of the events' times.
        json: print the result as JSON.
    """
    from common.inference.tagging import EventOptions, tag_files

    rows, failed = tag_files(files, model, weights, top, events, EventOptions(threshold, median, window, hop))
    if json:
        print_json(rows)
    else:
        print_table([{"filename": row["filename"], **tags} for row in rows for tags in row["tags"]])
    return 2 if failed else 0


def embed(folder: Positional[Path], *, model: str, out: Path, weights: Path | None = None) -> None:
    """Write one vector for each audio file below a folder.

    Args:
        folder: what to embed.
        model: of the registry, such as mn10.as, a HEAR embedding, such as mn10_all_b_mel_avgs or passt_base, or the
            folder of a run of `pretrain` or `finetune`.
        out: .npz (arrays filename and embedding) or .parquet (the same as columns).
        weights: file of released weights; left out, the cache or a download.
    """
    from common.inference.embedding import embed_folder

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
    json: bool = False,
) -> None:
    """Score a model's embeddings on a labelled task by HEAR's shallow evaluation.

    Args:
        source: table (csv, tsv) with the columns filename, label and fold, or a folder that holds it.
        model: of the registry, or a HEAR embedding, as for `embed`.
        weights: file of released weights; left out, the cache or a download.
        folds: test only these folds.
        grid: published, fast or faster; how many hyper-parameters are tried, and for how long.
        first_best: among equal validation scores keep the first, as HEAR does, not the one of the lowest loss.
        json: print the result as JSON.
    """
    from common.inference.probe import probe as evaluate

    result = evaluate(source, model, weights, grid, folds, first_best)
    if json:
        print_json(result)
        return
    print_table([{"fold": fold, result["metric"]: score} for fold, score in result["folds"].items()])
    limits = result["interval"]
    between = f", 95 % between {limits[0]:.4f} and {limits[1]:.4f}" if limits else ""
    print(f"{result['metric']} {result['score']:.4f} (standard deviation {result['standard_deviation']:.4f}{between})")


def export(
    name: Positional[str],
    *,
    out: Path,
    weights: Path | None = None,
    seconds: float | None = None,
    no_check: bool = False,
) -> None:
    """Write a model with its front end as ONNX: waveform in, scores out.

    Args:
        name: of the registry; an architecture without weights gets random ones.
        out: .onnx file.
        weights: file of released weights; left out, the cache or a download.
        seconds: length of the clips that the file takes; left out, the model's window. The batch may have any size
            (DyMN: 1).
        no_check: skip the comparison with PyTorch on made-up clips.
    """
    from common.inference.export import export_onnx

    report = export_onnx(name, out, weights, seconds, check=not no_check)
    print_table([report])


def doctor(*, json: bool = False) -> None:
    """Look whether this machine has what the kit needs, and say how to get what is missing.

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


def pretrain(
    settings: PretrainSettings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Train a tagging network on AudioSet, with a teacher's logits where the settings name them, and test it.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again (train or test), with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from common.audioset.evaluate import print_tagging
    from common.audioset.recipe import check_recipe, run_recipe

    if fast_check:
        check_recipe(settings)
        return
    finished = run_recipe(settings, resume, redo)
    print_tagging(finished.folder)
    say(f"The run is in {finished.folder}; its weights are {finished.folder / 'train' / 'weights.pt'}.")


def finetune(
    settings: FineTuneSettings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Fine-tune a tagging network on ESC-50, FSD50K, OpenMIC or a folder with a table, and test it.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again (train or test), with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from common.audioset.evaluate import print_tagging
    from common.audioset.finetune import check_recipe, run_recipe

    if fast_check:
        check_recipe(settings)
        return
    finished = run_recipe(settings, resume, redo)
    print_tagging(finished.folder)
    say(f"The run is in {finished.folder}.")


def pack_audioset(
    *,
    root: Path,
    audio: Path,
    split: Literal["balanced_train", "unbalanced_train", "eval"],
    encode_rate: int | None = None,
    clips_per_file: int = 50_000,
) -> None:
    """Pack the clips of a split of AudioSet into HDF5 files, and list what is missing or broken.

    Args:
        root: folder of the segment tables; the files are written there.
        audio: folder of the clips, also in subfolders: Y<video>.mp3, or <video> with any ending that soundfile reads.
        split: which table.
        encode_rate: Hz; turn every clip into mono mp3 of this rate. Left out, the clips' own bytes are stored.
        clips_per_file: segments in each file; a call that was stopped goes on with the first unfinished file.
    """
    from common.audioset.packing import pack_split

    report = pack_split(root, audio, split, encode_rate, clips_per_file)
    say(str(report))
    if report.not_found or report.num_broken:
        say(f"What is missing or broken is listed in {report.list_of_missing}.")


def check_audioset(*, root: Path, decode: int = 100, json: bool = False) -> None:
    """Compare the HDF5 files of AudioSet with its segment tables, and decode some clips.

    Args:
        root: folder of tables and files.
        decode: how many clips of each split are decoded, drawn at random.
        json: print what was found as JSON.
    """
    from common.audioset.packing import check_audioset as check

    rows, problems = check(root, decode)
    print_json({"splits": rows, "problems": problems}) if json else print_table(rows, title=str(root))
    if problems:
        raise CheckFailed("\n".join(problems))
    say("The data are as they should be; clips that are missing are usually no longer on YouTube.")


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

    Args:
        teachers: run folders of `pretrain`, or models such as passt_s_swa.as, or mn04.as=FILE with their weights.
        root: of AudioSet.
        out: HDF5 file to write.
        files: names of HDF5 files below `root`, with * and ?.
        seconds: of the clips; left out, those that the first run was trained on, and 10 without a run.
        batch_size: clips at once.
        num_workers: processes that decode.
    """
    from common.audioset.teachers import write_teacher_logits

    count = write_teacher_logits(teachers, root, out, files, seconds, batch_size, num_workers)
    say(f"Wrote the logits of {count:,} clips to {out}.")


def import_logits(*, array: Path, index: Path, out: Path) -> None:
    """Turn the published ensemble's logits (passt_enemble_logits_mAP_495.npy) into a file for `teacher.logits`.

    Args:
        array: the .npy file.
        index: fname_to_index.pkl.
        out: HDF5 file to write.
    """
    from common.audioset.teachers import import_published_logits

    say(f"Wrote the logits of {import_published_logits(array, index, out)[0]:,} clips to {out}.")


def evaluate_tagging(run: Positional[Path], *, json: bool = False) -> None:
    """Show the figures of a finished run of `pretrain` or `finetune`, with 95 % intervals.

    Args:
        run: run folder.
        json: print all figures as JSON.
    """
    from common.audioset.evaluate import print_tagging, read_evaluation

    print_json(read_evaluation(run)) if json else print_tagging(run, classes=True)


VERBS: dict[str, Verb] = {
    "synthesize": synthesize,
    "models": models,
    "complexity": complexity,
    "tag": tag,
    "embed": embed,
    "probe": probe,
    "export": export,
    "pretrain": config_verb(PretrainSettings, pretrain, config_for={"fast_check": SMALL}),
    "finetune": config_verb(FineTuneSettings, finetune),
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

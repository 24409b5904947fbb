"""Verbs that no single task owns: made-up data, models, training on AudioSet, checks of the machine."""

import sys
from pathlib import Path

from common.audioset.verbs import VERBS as AUDIOSET
from common.cli import Positional, Precision, Repeated, Verb, print_json, print_table, run, say
from common.errors import CheckFailed
from common.inference.early import refuse_early


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


VERBS: dict[str, Verb] = {
    "synthesize": synthesize,
    "models": models,
    "complexity": complexity,
    "tag": tag,
    "serve": serve,
    "embed": embed,
    "probe": probe,
    "export": export,
    **AUDIOSET,
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(run("python -m common", VERBS))

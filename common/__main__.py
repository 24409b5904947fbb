"""What no single task owns: made-up data, models, and a look at the machine."""

import sys
from pathlib import Path

from common.cli import Positional, Verb, print_json, print_table, run, say
from common.errors import CheckFailed


def synthesize(task: Positional[str], *, root: Path, clips: int | None = None, seed: int = 0) -> None:
    """Write a small made-up data set in the official layout of a task.

    Args:
        task: task1_asc, task4_sed, retrieval or imitation.
        root: folder that will hold the data set.
        clips: about how many clips; left out, as many as the demo needs.
        seed: the same seed gives the same files.
    """
    from common.synthetic import synthesize as write

    counts = write(task, root, clips, seed)
    say(f"Wrote made-up data to {root}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}.")


def models(pattern: Positional[str] = "*", *, json: bool = False) -> None:
    """Show the models, each followed by its released weights.

    Args:
        pattern: names to show, such as "mn*".
        json: print everything that is known of them as JSON.
    """
    from common.model_table import describe_models, summary_row

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
    from common.complexity import describe, table_rows

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
        model: such as mn10.as, or frame_mn10.strong for exact times of events.
        weights: file of released weights; left out, the cache or a download.
        top: labels for each file.
        events: also write onset, offset, label and score of events to this file (tab-separated).
        threshold: score from which on an event is active; left out, 0.5 for frame models and 0.3 for clip models.
        median: length of the median filter in frames; left out, 9 (360 ms) for frame models, 1 for clip models.
        window: seconds that a clip model hears at once for --events; MN and PaSST get worse below 5 s.
        hop: seconds from one such window to the next, and the step of the events' times.
        json: print the result as JSON.
    """
    from common.tagging import EventOptions, tag_files

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
        model: of the registry, such as mn10.as, or a HEAR embedding, such as mn10_all_b_mel_avgs or passt_base.
        out: .npz (arrays filename and embedding) or .parquet (the same as columns).
        weights: file of released weights; left out, the cache or a download.
    """
    from common.embedding import embed_folder

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
    from common.probe import probe as evaluate

    result = evaluate(source, model, weights, grid, folds, first_best)
    if json:
        print_json(result)
        return
    print_table([{"fold": fold, result["metric"]: score} for fold, score in result["folds"].items()])
    limits = result["interval"]
    between = f", 95 % between {limits[0]:.4f} and {limits[1]:.4f}" if limits else ""
    print(f"{result['metric']} {result['score']:.4f} (standard deviation {result['standard_deviation']:.4f}{between})")


def export(
    name: Positional[str], *, out: Path, weights: Path | None = None, seconds: float | None = None, check: bool = True
) -> None:
    """Write a model with its front end as ONNX: waveform in, scores out.

    Args:
        name: of the registry; an architecture without weights gets random ones.
        out: .onnx file.
        weights: file of released weights; left out, the cache or a download.
        seconds: length of the clips that the file takes; left out, the model's window. The batch may have any size
            (DyMN: 1).
        check: compare with PyTorch on made-up clips.
    """
    from common.export import export_onnx

    report = export_onnx(name, out, weights, seconds, check)
    print_table([report])


def doctor(*, json: bool = False) -> None:
    """Look whether this machine has what the kit needs, and say how to get what is missing.

    Args:
        json: print the findings as JSON.
    """
    from dataclasses import asdict

    from common.doctor import examine

    findings = examine()
    rows = [asdict(finding) for finding in findings]
    print_json(rows) if json else print_table(rows)
    broken = [finding.part for finding in findings if finding.state in ("missing", "wrong")]
    if broken:
        raise CheckFailed(f"To be mended: {', '.join(broken)}.")


VERBS: dict[str, Verb] = {
    "synthesize": synthesize,
    "models": models,
    "complexity": complexity,
    "tag": tag,
    "embed": embed,
    "probe": probe,
    "export": export,
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(run("python -m common", VERBS))

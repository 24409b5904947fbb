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
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(run("python -m common", VERBS))

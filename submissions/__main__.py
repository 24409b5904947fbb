"""Check and pack challenge submissions."""

import sys
from pathlib import Path

from tyro.conf import Positional

from common.cli import Verb, print_json, run
from common.runs.folder import refuse_absent


def check(
    path: Positional[Path],
    *,
    rules: str | None = None,
    evaluation_set: Path | None = None,
    run_code: bool = False,
    json: bool = False,
) -> int:
    """Check a package against every rule of its task and year: one line per rule.

    Example: submissions/out/Lastname_INST_task1.zip

    Args:
        path: package as a folder or a zip.
        rules: file in submissions/rules, such as task1_2024 (default: recognised from the package's files).
        evaluation_set: list of the evaluation set (.json, .csv or .tsv), if it is not public.
        run_code: load and call an inference package, in a copy and a separate process. This runs the package's code.
        json: print the findings as JSON.
    """
    refuse_absent([path], "give a package's folder or zip, such as submissions/out/<team>")
    from submissions.package import check_package
    from submissions.report import as_data, lines, passes
    from submissions.rules import load_rules

    package, results = check_package(path, load_rules(rules) if rules else None, evaluation_set, run_code)
    if json:
        print_json(as_data(package, results))
    else:
        print("\n".join(lines(package, results)))
    return 0 if passes(results) else 1


def pack(
    path: Positional[Path], *, rules: str | None = None, evaluation_set: Path | None = None, run_code: bool = False
) -> None:
    """Check a package's folder and write its zip beside it, if every rule was checked and holds.

    Example: submissions/out/Lastname_INST_task1

    Args:
        path: folder of the package, such as submissions/out/Lastname_INST_task1.
        rules: file in submissions/rules, such as task1_2024 (default: recognised from the package's files).
        evaluation_set: list of the evaluation set (.json, .csv or .tsv), if it is not public.
        run_code: load and call an inference package, in a copy and a separate process. This runs the package's code.
    """
    refuse_absent([path], "give a package's folder, such as submissions/out/<team>")
    from submissions import package
    from submissions.rules import load_rules

    print(package.pack(path, load_rules(rules) if rules else None, evaluation_set, run_code))


def template(name: Positional[str], *, out: Path = Path("META.yaml")) -> None:
    """Write a META.yaml to fill in, for the verb `package` of a task.

    Example: task1_2024 --out META.yaml

    Args:
        name: task and year, such as task1_2024.
        out: file to write.
    """
    from submissions.participant import write_template

    write_template(name, out)
    print(out)


VERBS: dict[str, Verb] = {"check": check, "pack": pack, "template": template}

if __name__ == "__main__":
    sys.exit(run("python -m submissions", VERBS))

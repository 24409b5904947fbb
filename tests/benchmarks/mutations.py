r"""Small random changes to the source, one at a time: does a test notice?

    pip install pytest-cov
    python -m pytest -n logical --dist loadfile -m "not slow and not slurm and not gpu" --cov=common --cov=task1_asc \
        --cov=task4_sed --cov=retrieval --cov=submissions --cov-context=test --cov-report=
    python -m tests.benchmarks.mutations common/training/schedules.py task4_sed/losses.py --changes 10 --seed 0

The first command takes the whole suite's time and writes `.coverage`, which says which tests run which lines. The
second changes copies of the named files (a comparison, a number, a sign, a condition, a statement left out), runs tests
that run the changed line, those of the mirrored file first, and prints each change that none of them noticed. Tests
that fail without a change are left out and named. Messages, docstrings and annotations stay as they are. Tests that
start programs of their own are not known to run a line; where no test is known to run it, those of the mirrored folder
are run. Some changes that survive are equivalent: that takes reading.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

LIMIT_SECONDS = 180
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div}
LEFT_OUT = ast.Raise | ast.AugAssign | ast.Continue | ast.Break | ast.Assert
# A fork of this process finds these loaded, which saves seconds a change.
LOADED_ONCE = ("h5py", "lightning", "pandas", "scipy.stats", "torch", "torchaudio")


class Change(NamedTuple):
    """A piece of a file, and what stands there instead."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str


def variants(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """What could stand in place of a node of the syntax tree."""
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            yield ast.Compare(node.left, [COMPARISONS[type(operator)]()], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            yield node.values[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.If() | ast.IfExp() | ast.While():
            yield ast.UnaryOp(ast.Not(), node.test)
        case ast.Call(keywords=[*_, _]):
            yield ast.Call(node.func, node.args, node.keywords[:-1])
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()):
            yield ast.Pass()
        case _ if isinstance(node, LEFT_OUT):
            yield ast.Pass()


def nodes_to_keep(tree: ast.AST) -> set[ast.AST]:
    """Nodes of annotations, decorators, messages and imports."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign() | ast.arg():
                roots.append(node.annotation)
            case ast.FunctionDef():
                roots += [node.returns, *node.decorator_list]
            case ast.Raise():
                roots.append(node.exc)
            case ast.JoinedStr() | ast.If(test=ast.Name(id="TYPE_CHECKING")):
                roots.append(node)
    return {node for root in roots if root for node in ast.walk(root)}


def find_changes(path: Path) -> list[Change]:
    """Every change that a file offers, in the order of its lines."""
    content = path.read_bytes()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(content)
    kept, found = nodes_to_keep(tree), []
    for node in ast.walk(tree):
        place = node.test if isinstance(node, ast.If | ast.IfExp | ast.While) else node
        if node in kept or not isinstance(place, ast.expr | ast.stmt):
            continue
        assert place.end_lineno is not None and place.end_col_offset is not None
        start = starts[place.lineno - 1] + place.col_offset
        end = starts[place.end_lineno - 1] + place.end_col_offset
        for variant in variants(node):
            new = ast.unparse(ast.fix_missing_locations(variant))
            new = new if isinstance(variant, ast.stmt | ast.Constant) else f"({new})"
            found.append(Change(str(path), place.lineno, start, end, content[start:end].decode(), new))
    return sorted(found)


def read_tests_by_line(path: Path) -> dict[int, list[str]]:
    """Tests that run each line of a file; of line 0, tests that run any of its functions."""
    from coverage import CoverageData

    data = CoverageData()
    data.read()
    contexts = data.contexts_by_lineno(str(path.resolve()))
    lines = {line: sorted({name.split("|")[0] for name in names if name}) for line, names in contexts.items()}
    return lines | {0: sorted({test for tests in lines.values() for test in tests})}


class Copy:
    """A copy of the project, in which files are changed and tests run."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "main"
        self.sound: set[str] = set()
        self.unsound: set[str] = set()
        for name in subprocess.check_output(["git", "ls-files"], text=True).splitlines():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, self.folder / name)
        if Path("../shared").exists():
            (self.root / "shared").symlink_to(Path("../shared").resolve())

    def failing(self, tests: list[str], *options: str) -> set[str]:
        """Those of the tests that fail; an empty name stands for a run that ended otherwise or took too long."""
        reports = self.root / "failed.txt"
        reports.write_text("")
        process = os.fork()
        if process == 0:
            os.setsid()
            os.chdir(self.folder)
            sys.path[0] = str(self.folder)
            for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
                del sys.modules[name]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            signal.alarm(LIMIT_SECONDS)

            class Failures:
                def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                    if report.failed:
                        with reports.open("a") as file:
                            file.write(report.nodeid + "\n")

            os._exit(int(pytest.main(["-q", "-p", "no:cacheprovider", *options, *tests], plugins=[Failures()])))
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        return set(reports.read_text().splitlines()) or ({""} if status else set())

    def is_noticed(self, change: Change, tests: list[str]) -> bool:
        """Whether one of the tests, which pass without the change, fails with it."""
        if new := [test for test in tests if test not in self.sound | self.unsound]:
            failed = self.failing(new)
            if failed:
                print(f"left out, since they fail without a change: {', '.join(sorted(failed))}", flush=True)
            self.unsound |= failed
            self.sound |= set(new) - failed
        tests = [test for test in tests if test in self.sound]
        path = self.folder / change.path
        content = path.read_bytes()
        path.write_bytes(content[: change.start] + change.new.encode() + content[change.end :])
        try:
            return bool(tests and self.failing(tests, "-x"))
        finally:
            path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--changes", type=int, default=10, help="changes for each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=40, help="tests that are run for a change")
    parser.add_argument("--out", type=Path, help="file to which each change is added as a line of JSON")
    arguments = parser.parse_args()

    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for name in LOADED_ONCE:
        importlib.import_module(name)
    copy, generator, noticed, tried = Copy(), random.Random(arguments.seed), 0, 0
    for path in arguments.files:
        tests_by_line, offered = read_tests_by_line(path), find_changes(path)
        for change in sorted(generator.sample(offered, min(arguments.changes, len(offered)))):
            tests = tests_by_line.get(change.line) or tests_by_line[0] or [str(Path("tests") / path.parent)]
            tests = sorted(tests, key=lambda test: f"{path.parent}/test_{path.stem}" not in test)[: arguments.most]
            found = copy.is_noticed(change, tests)
            noticed, tried = noticed + found, tried + 1
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(change._asdict() | {"noticed": found, "tests": len(tests)}) + "\n")
            if not found:
                print(f"{path}:{change.line}: {change.old!r} -> {change.new!r} ({len(tests)} tests)", flush=True)
    shutil.rmtree(copy.root)
    print(f"{noticed} of {tried} changes noticed.")


if __name__ == "__main__":
    main()

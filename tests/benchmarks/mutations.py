r"""Small random changes to the source, one at a time: does a test notice?

    pip install pytest-cov
    python -m pytest -n logical --dist loadfile -m "not slow and not slurm and not gpu" --cov=common --cov=task1_asc \
        --cov=task4_sed --cov=retrieval --cov=submissions --cov-context=test --cov-report=
    python -m tests.benchmarks.mutations common retrieval task4_sed/losses.py --modules 30 --changes 10 --seed 0 --out T

The first command takes the whole suite's time and writes `.coverage`, which says which tests run which lines. The
second draws modules from the named files and folders (those of at least 60 lines that offer 20 changes), changes copies
of them (a comparison, a number, a sign, a condition, a statement left out), runs tests that run the changed line, those
of the mirrored file first, and prints each change that none of them noticed. A call that was stopped goes on where T
ends. `--again T` makes the changes that went unnoticed in T once more, with each test that runs the line and those of
the mirrored file. Tests that fail without a change are left out and named. Messages, docstrings and annotations stay as
they are. Tests that start programs of their own are not known to run a line; where no test is known to run it, those of
the mirrored folder are run. Some changes that survive are equivalent: that takes reading.
"""

import argparse
import ast
import compileall
import contextlib
import gc
import importlib
import json
import os
import py_compile
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

LIMIT_SECONDS = 120  # of the processor; a machine may be busy, so that the clock says little
TESTS_AT_ONCE = 10
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
LOADED_ONCE = (
    "h5py",
    "hypothesis.extra.numpy",
    "lightning",
    "pandas",
    "pydantic",
    "scipy.stats",
    "torch",
    "torchaudio",
)
# Not needed here, and slow to begin or, in a large process, to end.
PLUGINS_LEFT_OUT = ("anyio", "cacheprovider", "pytest_cov", "typeguard", "unraisableexception", "xdist")


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


def draw_modules(paths: list[Path], count: int | None, seed: int) -> list[Path]:
    """Named files, or as many of them and of the modules of named folders as are asked for."""
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    if count is None:
        return found
    found = [path for path in found if path.read_bytes().count(b"\n") >= 60 and len(find_changes(path)) >= 20]
    drawn = sorted(random.Random(seed).sample(found, count))
    print(f"seed {seed}: {count} of {len(found)} modules: {' '.join(map(str, drawn))}", flush=True)
    return drawn


def draw_changes(path: Path, count: int, seed: int) -> list[Change]:
    offered = find_changes(path)
    return sorted(random.Random(f"{seed} {path}").sample(offered, min(count, len(offered))))


def relocate(change: Change) -> Change:
    """The same change where its piece of the file is now: the nearest equal one."""
    offered = [new for new in find_changes(Path(change.path)) if (new.old, new.new) == (change.old, change.new)]
    return min(offered, key=lambda new: abs(new.line - change.line))


def read_finished(path: Path | None) -> dict[Change, bool]:
    """Changes that a file tells of, and whether each was noticed."""
    lines = path.read_text().splitlines() if path and path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {Change(*(row[name] for name in Change._fields)): row["noticed"] for row in rows}


def tests_for(change: Change, most: int, every: bool = False) -> list[str]:
    """Tests that run the changed line, those of the mirrored file first, then quick ones; or all of both."""
    path = Path(change.path)
    mirrored = Path("tests") / path.parent / f"test_{path.stem}.py"
    tests_by_line = read_tests_by_line(path)
    tests = tests_by_line.get(change.line) or tests_by_line[0] or [str(Path("tests") / path.parent)]
    if every:
        return sorted(({str(mirrored)} if mirrored.exists() else set()) | set(tests))
    return sorted(tests, key=lambda test: (str(mirrored) not in test, count_files(test)))[:most]


@cache
def count_files(test: str) -> int:
    """Files that a test runs lines of: those of a few are quick, those of a whole training are not."""
    with contextlib.closing(sqlite3.connect(".coverage")) as data:
        query = "select count(*) from line_bits join context on context.id = context_id where context like ?"
        return int(data.execute(query, [f"{test}|%"]).fetchone()[0])


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
        mode = py_compile.PycInvalidationMode.CHECKED_HASH  # a changed file is compiled anew, the others are not
        compileall.compile_dir(self.folder, quiet=1, invalidation_mode=mode)

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
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
            signal.alarm(10 * LIMIT_SECONDS)

            class Failures:
                def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                    if report.failed:
                        with reports.open("a") as file:
                            file.write(report.nodeid + "\n")

            left_out = [word for name in PLUGINS_LEFT_OUT for word in ("-p", f"no:{name}")]
            os._exit(int(pytest.main(["-q", *left_out, "--assert", "plain", *options, *tests], plugins=[Failures()])))
        _, status = os.waitpid(process, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        return set(reports.read_text().splitlines()) or ({""} if status else set())

    def is_noticed(self, change: Change, tests: list[str]) -> bool:
        """Whether one of the tests fails with the change, and passes without it."""
        for first in range(0, len(tests), TESTS_AT_ONCE):
            some = [test for test in tests[first : first + TESTS_AT_ONCE] if test not in self.unsound]
            while some and (failed := self._failing_with(change, some)):
                suspects = failed - {""} or set(some)
                if self._sound(suspects):
                    return True
                some = [test for test in some if test not in suspects] if suspects & set(some) else []
        return False

    def _failing_with(self, change: Change, tests: list[str]) -> set[str]:
        path = self.folder / change.path
        content = path.read_bytes()
        path.write_bytes(content[: change.start] + change.new.encode() + content[change.end :])
        try:
            return self.failing(tests, "-x")
        finally:
            path.write_bytes(content)

    def _sound(self, tests: set[str]) -> set[str]:
        """Those of the tests that pass without a change."""
        if new := tests - self.sound - self.unsound:
            failed = self.failing(sorted(new))
            failed = new if "" in failed else failed
            if failed:
                print(f"left out, since they fail without a change: {', '.join(sorted(failed))}", flush=True)
            self.unsound |= failed
            self.sound |= new - failed
        return tests & self.sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files, and folders of which each module is one")
    parser.add_argument("--modules", type=int, help="modules to draw from them; all without it")
    parser.add_argument("--changes", type=int, default=10, help="changes for each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=40, help="tests that are run for a change")
    parser.add_argument("--out", type=Path, help="file to which each change is added as a line of JSON")
    parser.add_argument("--again", type=Path, help="such a file, of which the changes that went unnoticed are made")
    arguments = parser.parse_args()

    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for name in LOADED_ONCE:
        importlib.import_module(name)
    gc.freeze()
    if arguments.again:
        wanted = [relocate(change) for change, found in read_finished(arguments.again).items() if not found]
    else:
        files = draw_modules(arguments.paths, arguments.modules, arguments.seed)
        wanted = [change for path in files for change in draw_changes(path, arguments.changes, arguments.seed)]
    copy, finished = Copy(), read_finished(arguments.out)
    for change in wanted:
        if change not in finished:
            tests = tests_for(change, arguments.most, every=bool(arguments.again))
            finished[change] = found = copy.is_noticed(change, tests)
            if arguments.out:
                with arguments.out.open("a") as file:
                    file.write(json.dumps(change._asdict() | {"noticed": found, "tests": len(tests)}) + "\n")
            if not found:
                print(f"{change.path}:{change.line}: {change.old!r} -> {change.new!r} ({len(tests)} tests)", flush=True)
    shutil.rmtree(copy.root)
    print(f"{sum(finished[change] for change in wanted)} of {len(wanted)} changes noticed.")


if __name__ == "__main__":
    main()

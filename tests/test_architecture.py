"""Arrows between modules point one way: each folder imports only folders on lower floors, and nothing goes in a circle.

Imports inside functions count as well. FLOORS lists the folders from top to bottom. No code stands in two places.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.support.places import ROOT

FLOORS = {
    "": ["task1_asc task4_sed retrieval", "submissions", "common"],
    "common": [
        "__main__", "hear", "synthetic inference", "audioset", "cli registry", "training runs models features",
        "reports", "data settings", "output errors",
    ],
    "task1_asc": [
        "__main__", "broad_sounds", "report compare as_model", "export", "submission", "recipe", "evaluate", "train",
        "networks", "metrics", "data", "settings",
    ],
    "task1_asc.broad_sounds": [
        "verbs as_model", "report compare check", "submission", "recipe", "evaluate train", "model", "embeddings",
        "data", "metrics", "network settings taxonomy",
    ],
    "task4_sed": [
        "__main__", "reports submission", "systems", "baseline iterations", "evaluate",
        "mean_teacher postprocessing", "scoring", "pretraining", "metrics", "scores", "data", "settings",
        "labels losses augment",
    ],
    "retrieval": [
        "__main__", "moments as_model", "report compare submission search", "systems", "imitation", "recipe",
        "evaluate train",
        "correspondences model metrics", "losses", "data", "settings",
    ],
}  # fmt: skip
PACKAGES = " ".join(FLOORS[""]).split()
EQUAL_LINES = 10
CHANGED_IN_PLACE = """
    Augmenter CheckReport EncodedReport ExponentialWarmupLinearDown Index Package Result Run ScoreTable Searcher
    SetsReport SplitReport StrongReport System Teacher Trained WarmupCosine YamlFile
"""
"""Dataclasses that are no mere values."""


@cache
def source() -> dict[Path, ast.Module]:
    """Each file of the source, parsed."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths if "templates" not in path.parts}


@cache
def imports() -> dict[str, set[str]]:
    """Each module of the source to the modules that it imports."""
    modules = {module_name(path) for path in source()}
    return {module_name(path): set(imported_by(tree, modules)) - {module_name(path)} for path, tree in source().items()}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from inner & modules or {node.module}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """What remains when everything that imports nothing of the rest, or is imported by nothing of it, is taken away."""
    left = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while gone := {name for name, others in left.items() if not others}:
        left = {name: others - gone for name, others in left.items() if name not in gone}
    return [[name, *sorted(others)] for name, others in sorted(left.items())]


def folders_of(package: str) -> dict[str, set[str]]:
    """Each folder or module just inside a package ("" is the whole kit) to those beside it that it imports."""
    depth = len(package.split(".")) if package else 0
    graph: dict[str, set[str]] = {}
    for name, others in imports().items():
        if not package or name.startswith(f"{package}."):
            place = name.split(".")[depth]
            inside = {other for other in others if not package or other.startswith(f"{package}.")}
            graph.setdefault(place, set()).update({other.split(".")[depth] for other in inside} - {place})
    return graph


def test_no_module_imports_itself_through_others():
    assert circles(imports()) == []


@pytest.mark.parametrize("package", ["", *sorted(name for name in FLOORS if name)])
def test_no_folder_imports_itself_through_others(package):
    assert circles(folders_of(package)) == []


@pytest.mark.parametrize("package", sorted(FLOORS))
def test_a_folder_imports_lower_floors_only(package):
    floor = {name: level for level, names in enumerate(FLOORS[package]) for name in names.split()}
    upward = [
        f"{name} -> {other}" for name, others in folders_of(package).items() for other in others
        if floor[other] < floor[name]
    ]  # fmt: skip
    assert upward == []


def test_tasks_do_not_import_each_other():
    tasks = set(FLOORS[""][0].split())
    assert {task: folders_of("")[task] & tasks for task in tasks} == {task: set() for task in tasks}


def test_no_test_module_imports_another():
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    modules = {module_name(path) for path in paths}
    trees = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    found = {name: set(imported_by(tree, modules)) for name, tree in trees.items()}
    assert {name: others for name, others in found.items() if others} == {}


def test_tests_are_in_the_folders_of_the_code():
    own = {"benchmarks", "check_training", "golden", "gpu", "known_issues", "support"}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")}
    assert [folder for folder in folders if not own & {*folder.parts} and not (ROOT / folder).is_dir()] == []


def test_no_two_places_share_ten_equal_lines():
    places = defaultdict(list)
    for path, tree in source().items():
        lines = code_lines(path, tree)
        for first in range(len(lines) - EQUAL_LINES + 1):
            number = lines[first][0]
            text = "\n".join(line for _, line in lines[first : first + EQUAL_LINES])
            places[text].append(f"{path.relative_to(ROOT)}:{number}")
    assert [found for found in places.values() if len(found) > 1] == []


def test_values_cannot_be_changed():
    found = [
        node.name for tree in source().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
        for text in map(ast.unparse, node.decorator_list)
        if text.startswith("dataclass") and "frozen=True" not in text
    ]  # fmt: skip
    assert sorted(found) == CHANGED_IN_PLACE.split()


def code_lines(path: Path, tree: ast.Module) -> list[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty, not a comment and not in a table of constants."""
    tables: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if all(isinstance(target, ast.Name) and target.id.isupper() for target in targets):
                tables.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate((line.strip() for line in path.read_text(encoding="utf-8").splitlines()), start=1)
    return [(number, line) for number, line in lines if line and line[0] != "#" and number not in tables]


def test_no_folder_is_crowded():
    entries = {
        folder.relative_to(ROOT): [path for path in folder.iterdir() if not path.name.startswith("__")]
        for name in PACKAGES for folder in [ROOT / name, *(ROOT / name).rglob("*/")]
        if (folder / "__init__.py").is_file()
    }  # fmt: skip
    assert {str(folder): len(paths) for folder, paths in entries.items() if len(paths) > 20} == {}
    assert len(entries[Path("common")]) <= 16

"""python -m tests.check_training FOLDER: one line a fixture; exit 0 all within tolerance, 1 otherwise."""

import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import tests.check_training
from tests.check_training.fixtures import Fixture, difference, find_check, flat

for family in iter_modules(tests.check_training.__path__):
    if family.name != "__main__":
        import_module(f"tests.check_training.{family.name}")


@dataclass(frozen=True)
class Outcome:
    """Verdict on a fixture."""

    name: str
    kind: str
    words: str
    passed: bool


def compare(path: Path) -> Outcome:
    """Compute a fixture's values and compare them; an error becomes part of the outcome."""
    kind = "?"
    try:
        fixture = Fixture.read(path)
        kind = fixture.kind
        got = flat(find_check(fixture)(fixture))
        rows = []
        for name, want in fixture.expected.items():
            if name not in got:
                return Outcome(path.stem, kind, f"{name} was not computed", False)
            found, tolerance = difference(got[name], want), fixture.tolerance(name)
            rows.append((found > tolerance, found / tolerance if tolerance else found, found, name, tolerance))
        over, _, found, name, tolerance = max(rows)
        return Outcome(path.stem, kind, f"{found:.1e}  {name}  tolerance {tolerance:g}", not over)
    except Exception as error:
        if "--trace" in sys.argv:
            traceback.print_exc()
        return Outcome(path.stem, kind, f"{type(error).__name__}: {error}", False)


def main(words: Iterable[str]) -> int:
    """Compare every fixture of the folders that are named."""
    folders = [Path(word) for word in words if not word.startswith("--")]
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    if not paths:
        print(f"No fixtures (*.json) in {', '.join(map(str, folders)) or 'no folder'}; name a folder.", file=sys.stderr)
        return 2
    over = 0
    for path in paths:
        outcome = compare(path)
        over += not outcome.passed
        verdict = "ok" if outcome.passed else "over"
        print(f"{outcome.name:<42} {outcome.kind:<22} {outcome.words}  {verdict}", flush=True)
    print(f"{len(paths) - over} of {len(paths)} within tolerance", flush=True)
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

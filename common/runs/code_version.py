"""Which code made a result: the git commit, or a digest of the sources where there is no git."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def code_version() -> dict[str, str | bool]:
    """{"commit": ..., "changed": whether tracked files differ from it}, or {"digest": ...} without git."""
    # Asks for this very file: the kit may lie, copied, inside somebody else's repository.
    if _git("ls-files", "--error-unmatch", "common/runs/code_version.py") is None:
        return {"digest": _digest(ROOT)}
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return {"digest": _digest(ROOT)}
    return {"commit": commit, "changed": bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _digest(root: Path) -> str:
    """SHA-256 over the names and contents of all packages' Python files and tables."""
    digest = hashlib.sha256()
    for package in sorted(path.parent for path in root.glob("*/__init__.py")):
        for path in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

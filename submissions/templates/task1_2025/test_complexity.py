"""Write predictions/<package>_<number>/complexity.json.

python test_complexity.py --submission_name Lastname_INST_task1 --submission_index 1
"""

import argparse
import importlib
import json
from pathlib import Path

from complexity import measure


def main() -> None:
    """Measure one system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submission_name", required=True)
    parser.add_argument("--submission_index", type=int, required=True)
    arguments = parser.parse_args()
    name = f"{arguments.submission_name}_{arguments.submission_index}"
    found = measure(importlib.import_module(f"{arguments.submission_name}.{name}"))
    path = Path("predictions") / name / "complexity.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: at most {found['max_MACs']:,} MACs and {found['max_Params']:,} bytes")


if __name__ == "__main__":
    main()

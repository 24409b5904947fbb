"""Check the kit on a GPU in about nine minutes.

One line of JSON for each item at once, so that a run that is cut off tells as well; tables at the end.

    python -m tests.gpu [--parts "training steps" times] [--fake] [--small] [--scale 1.0] [--out gpu.json]
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from common.output import print_table
from tests.gpu.checks import PARTS, Device, Row
from tests.gpu.devices import fake_cuda


def main() -> int:
    """Run the parts; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--fake", action="store_true", help="on fake tensors: shapes and copies, no GPU needed")
    parser.add_argument("--small", action="store_true", help="small networks and batches")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the seconds of each part")
    parser.add_argument("--out", type=Path, help="JSON file for all rows")
    arguments = parser.parse_args()
    if not (arguments.fake or torch.cuda.is_available()):
        print("There is no GPU; --fake checks shapes and copies without one.", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first product, for equal repetitions
    with fake_cuda() if arguments.fake else nullcontext(torch.device("cuda", 0)) as device:
        on, full = Device(device, arguments.fake), not (arguments.small or arguments.fake)
        rows = {part: run(part, on, full, arguments.scale) for part in arguments.parts}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": machine(arguments.fake), "parts": rows}, indent=1))
    for part, found in rows.items():
        print_table(found, title=part)
    return int(any("error" in row for found in rows.values() for row in found))


def run(part: str, on: Device, full: bool, scale: float = 1.0) -> list[Row]:
    """Rows of a part; it ends with the item in which its seconds run out, and an error is a row."""
    seconds, work = PARTS[part]
    return list(limited(part, lambda: work(on, full), scale * seconds))


def limited(part: str, work: Callable[[], Iterator[Row]], seconds: float) -> Iterator[Row]:
    """Rows of `work`, each printed as one line of JSON, until the time is over."""
    start = time.monotonic()
    try:
        for row in work():
            yield tell(part, row)
            if time.monotonic() - start > seconds:
                yield tell(part, {"item": f"stopped after {seconds:.0f} s"})
                return
    except Exception as error:  # the parts after it are worth their time
        traceback.print_exc()
        yield tell(part, {"item": "failed", "error": f"{type(error).__name__}: {error}"[:300]})


def tell(part: str, row: Row) -> Row:
    """Print a row as one line."""
    print(json.dumps({"part": part, **row}), flush=True)
    return row


def machine(fake: bool) -> dict[str, Any]:
    """Versions and settings that decide the figures."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    flags = {"matmul": torch.get_float32_matmul_precision(), "cudnn TF32": torch.backends.cudnn.allow_tf32}
    return found | flags | {"gpu": "fake" if fake else torch.cuda.get_device_name(0)}


if __name__ == "__main__":
    sys.exit(main())

r"""Score a system on the development-test split, and let it predict the evaluation set.

python evaluate_submission.py --submission_name Lastname_INST_task1 --submission_index 1 \
    --dev_set_dir D --eval_set_dir E

Writes output.csv, model_state_dict.pt and test_accuracy.json into predictions/<package>_<number>/.
"""

import argparse
import csv
import importlib
import json
from pathlib import Path
from typing import Any

import torch

AT_ONCE = 1024


def predict(module: Any, files: list[Path], devices: list[str]) -> tuple[torch.Tensor, list[str]]:
    """Logits (files, classes) and the classes."""
    parts, order = [], []
    for first in range(0, len(files), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        logits, order = module.predict(files[part], devices[part], use_cuda=torch.cuda.is_available())
        parts.append(torch.stack(list(logits)).double())
    return torch.cat(parts), list(order)


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table, as dicts."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def score(module: Any, folder: Path) -> float:
    """Accuracy on the development-test split in per cent; a clip's device is the end of its file's name."""
    rows = read(Path(module.__file__).parent / "resources" / "test.csv")
    devices = [row["filename"].removesuffix(".wav").rpartition("-")[2] for row in rows]
    logits, order = predict(module, [folder / row["filename"] for row in rows], devices)
    right = sum(order[best] == row["scene_label"] for best, row in zip(logits.argmax(dim=1).tolist(), rows))
    return 100 * right / len(rows)


def write_output(module: Any, folder: Path, path: Path) -> None:
    """The table of the evaluation set; files keep their folder, as the official script has it."""
    rows = read(folder / "evaluation_setup" / "fold1_test.csv")
    files = [folder / row["filename"] for row in rows]
    logits, order = predict(module, files, [row["device_id"] for row in rows])
    probabilities = logits.softmax(dim=1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["filename", "scene_label", *order])
        for row, own in zip(rows, probabilities.tolist()):
            best = order[max(range(len(own)), key=own.__getitem__)]
            writer.writerow([row["filename"], best, *(f"{value:.9f}" for value in own)])


def main() -> None:
    """Evaluate one system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submission_name", required=True)
    parser.add_argument("--submission_index", type=int, required=True)
    parser.add_argument("--dev_set_dir", type=Path, required=True)
    parser.add_argument("--eval_set_dir", type=Path, required=True)
    arguments = parser.parse_args()
    name = f"{arguments.submission_name}_{arguments.submission_index}"
    module = importlib.import_module(f"{arguments.submission_name}.{name}")
    folder = Path("predictions") / name
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = score(module, arguments.dev_set_dir)
    (folder / "test_accuracy.json").write_text(json.dumps({"Test Accuracy": accuracy}) + "\n", encoding="utf-8")
    write_output(module, arguments.eval_set_dir, folder / "output.csv")
    torch.save(module.load_model().model.state_dict(), folder / "model_state_dict.pt")
    print(f"{name}: {accuracy:.2f} % on the development-test split")


if __name__ == "__main__":
    main()

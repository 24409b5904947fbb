"""Small valid packages that tests damage."""

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from common.settings.yaml_file import to_yaml
from submissions.package import new_system, team_name
from submissions.participant import PLACEHOLDER_MARK, placeholder_report
from submissions.rules import load_rules

AUTHOR = {
    "lastname": "Lastname",
    "firstname": "Firstname",
    "email": "first.last@example.org",
    "corresponding": True,
    "affiliation": {"abbreviation": "INST", "institute": "Technical University", "location": "City, Country"},
}
SPLITS = (5, 10, 25, 50, 100)
DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")


def report() -> bytes:
    """A technical report of one page."""
    return placeholder_report("team").replace(PLACEHOLDER_MARK, b"TECHNICAL REPORT OF TEAM")


def submission(label: str) -> dict:
    """The part of a meta file that every task has."""
    second = {
        **copy.deepcopy(AUTHOR),
        "lastname": "Otherlastname",
        "firstname": "Otherfirstname",
        "corresponding": False,
    }
    return {
        "label": label,
        "name": "A small system",
        "abbreviation": "small",
        "authors": [copy.deepcopy(AUTHOR), second],
    }


def write_yaml(path: Path, data: dict) -> None:
    path.write_text(to_yaml(data), encoding="utf-8")


def task1_meta(label: str, seed: int = 0) -> dict:
    generator = np.random.default_rng(seed)
    classes = load_rules("task1_2024").tables.columns[2:]
    results = {}
    for split in SPLITS:
        accuracy = generator.uniform(30, 70, len(classes)).round(2)
        loss = generator.uniform(1, 2, len(classes)).round(4)
        overall = {"accuracy": float(accuracy.mean().round(2)), "logloss": float(loss.mean().round(4))}
        spread = np.linspace(-8, 8, len(DEVICES))
        results[f"split_{split}"] = {
            "overall": overall,
            "class_wise": {
                name: {"accuracy": float(a), "logloss": float(b)} for name, a, b in zip(classes, accuracy, loss)
            },
            "device_wise": {
                device: {"accuracy": round(overall["accuracy"] + float(step), 2), "logloss": overall["logloss"]}
                for device, step in zip(DEVICES, spread)
            },
        }
    return {
        "submission": submission(label),
        "system": {
            "description": {"input_sampling_rate": "32 kHz", "machine_learning_method": "CNN"},
            "complexity": {"total_model_size": 122296, "total_parameters": 61148, "macs": 29419156},
            "external_datasets": None,
            "source_code": None,
        },
        "results": {"development_dataset": results},
    }


def task1_table(files: list[str], seed: int) -> pd.DataFrame:
    columns = load_rules("task1_2024").tables.columns
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(10), len(files)).astype(np.float32)
    table = pd.DataFrame(probabilities, columns=columns[2:])
    table.insert(0, "filename", files)
    table.insert(1, "scene_label", np.array(columns[2:])[probabilities.argmax(axis=1)])
    return table


def write_task1(out: Path, label: str = "Lastname_INST_task1_1", files: list[str] | None = None) -> Path:
    """A Task 1 2024 package on a made-up evaluation set of 12 files (or the given ones, undeclared); its folder."""
    rules, made_up = load_rules("task1_2024"), files is None
    files = files or [f"{number}.wav" for number in range(12)]
    with new_system(label, rules, out, {"files": files} if made_up else None) as folder:
        for split in SPLITS:
            table = task1_table(files, split)
            table.to_csv(folder / f"{label}.output.split_{split}.csv", sep="\t", index=False)
        write_yaml(folder / f"{label}.meta.yaml", task1_meta(label))
    return out / team_name(label)


def score_table(seed: int, frames: int = 20) -> pd.DataFrame:
    columns = load_rules("task4_2024").tables.columns
    edges = np.linspace(0, 10, frames + 1).round(3)
    scores = np.random.default_rng(seed).uniform(0, 1, (frames, len(columns) - 2)).round(4)
    return pd.DataFrame(np.column_stack([edges[:-1], edges[1:], scores]), columns=columns)


def write_task4(out: Path, label: str = "Lastname_INST_task4_1", clips: int = 3) -> Path:
    """A Task 4 2024 package with three runs on a made-up evaluation set."""
    rules = load_rules("task4_2024")
    names = [f"clip_{number}" for number in range(clips)]
    files = [f"{name}.wav" for name in names]
    made_up = {"files": files, "durations": dict.fromkeys(files, 10.0)}
    energy = {"training": 1.5, "devtest": 0.1, "reference_training": 0.5, "reference_devtest": 0.2}
    with new_system(label, rules, out, made_up) as folder:
        for run in (1, 2, 3):
            for kind, offset in (("", 1000), ("_unprocessed", 0)):
                scores = folder / f"{label}_run{run}{kind}.output"
                scores.mkdir()
                for number, name in enumerate(names):
                    table = score_table(100 * run + number + offset)
                    table.to_csv(scores / f"{name}.tsv", sep="\t", index=False)
        for name, kwh in energy.items():
            rows = pd.DataFrame({"run_id": [name] * 2, "duration": [1.0, 2.0], "energy_consumed": [kwh / 2, kwh]})
            rows.to_csv(folder / f"{label}.codecarbon.{name}.csv", index=False)
        meta = {
            "submission": submission(label),
            "system": {
                "description": {"machine_learning_method": "CRNN"},
                "complexity": {"total_parameters": 1785094, "macs": 1036000000},
                "energy": {f"{name}_kwh": kwh for name, kwh in energy.items()}
                | {"training_ratio": 3.0, "devtest_ratio": 0.5},
            },
            "results": {"development_dataset": {"PSDS1": 0.48, "mpAUC": 0.73}},
        }
        write_yaml(folder / f"{label}.meta.yaml", meta)
    return out / team_name(label)


RETRIEVAL_FILES = [f"{number} rain.wav" for number in range(10)] + [" birds.wav", "Tür: auf.wav"]
RETRIEVAL_QUERIES = ["rain falls", 'a man says "hello", twice', "birds sing,\nthen stop", "a door opens"]


def retrieval_meta(label: str) -> dict:
    return {
        "submission": submission(label),
        "system": {
            "description": {"acoustic_features": "log-mel energies"},
            "complexity": {"total_parameters": 100_000_000},
        },
        "results": {"development_evaluation": {"R@1": 0.2, "R@5": 0.5, "R@10": 0.6, "mAP@10": 0.3, "mAP@16": 0.35}},
    }


def write_retrieval(out: Path, rules_name: str) -> Path:
    """A package of task8_2024 (ten names per query) or task6_2025 (full matrix)."""
    rules = load_rules(rules_name)
    label = f"Lastname_INST_task{rules.task}_1"
    scores = np.random.default_rng(1).uniform(-1, 1, (len(RETRIEVAL_QUERIES), len(RETRIEVAL_FILES)))
    if rules_name == "task8_2024":
        ranked = np.array(RETRIEVAL_FILES)[np.argsort(-scores, axis=1)[:, :10]]
        table = pd.DataFrame(ranked, columns=rules.tables.columns[1:])
        table.insert(0, "caption", RETRIEVAL_QUERIES)
    else:
        table = pd.DataFrame(scores, columns=RETRIEVAL_FILES)
        table.insert(0, "index", RETRIEVAL_QUERIES)
    made_up = {"files": RETRIEVAL_FILES, "queries": RETRIEVAL_QUERIES}
    with new_system(label, rules, out, made_up) as folder:
        table.to_csv(folder / f"{label}.output.csv", index=False)
        write_yaml(folder / f"{label}.meta.yaml", retrieval_meta(label))
    return out / team_name(label)


INFERENCE_NAME = "Lastname_INST_task1"
INFERENCE_MODULE = '''
"""A system that gives every class its number."""
CLASSES = {classes}

class Tensor(list):
    def numel(self):
        return len(self)

class Container:
    model = "network"

def load_model(model_file_path=None):
    return Container()

def load_inputs(file_paths, device_ids, model):
    return [Tensor([0.0])] * len(file_paths)

def get_model_for_device(model, device_id):
    return lambda clip: Tensor(range(10))

def predict(file_paths, device_ids, model_file_path=None, **official_script):
    return [list(range(10)) for _ in file_paths], CLASSES
'''


def write_inference(out: Path) -> Path:
    """A package of Task 1 2025 with one system, which needs no torch."""
    root, rules = out / "inference", load_rules("task1_2025")
    package, predictions = root / INFERENCE_NAME, root / "predictions" / f"{INFERENCE_NAME}_1"
    for folder in (package / "resources", package / "ckpts", predictions):
        folder.mkdir(parents=True)
    for name in ("setup.py", "requirements.txt", "complexity.py", "test_complexity.py", "evaluate_submission.py"):
        (root / name).write_text("# as in the template\n")
    (package / "__init__.py").write_text('"""Package."""\n')
    (package / f"{INFERENCE_NAME}_1.py").write_text(INFERENCE_MODULE.format(classes=rules.shared["classes"]))
    (package / "ckpts" / "model.ckpt").write_bytes(b"weights")
    (package / "resources" / "test.csv").write_text("filename\tscene_label\n")
    soundfile.write(package / "resources" / "dummy.wav", np.zeros(44_100, dtype=np.float32), 44_100, subtype="PCM_24")
    figures = {device: {"MACs": 29_419_156, "Params": 122_296} for device in rules.shared["devices"]}
    complexity = {"per_device": figures, "max_MACs": 29_419_156, "max_Params": 122_296}
    (predictions / "complexity.json").write_text(json.dumps(complexity))
    (predictions / "test_accuracy.json").write_text(json.dumps({"Test Accuracy": 52.3}))
    (predictions / "model_state_dict.pt").write_bytes(b"weights")
    table = task1_table([f"audio/{number}.wav" for number in range(8)], 1)
    table.to_csv(predictions / "output.csv", sep="\t", index=False)
    (root / f"{INFERENCE_NAME}.technical_report.pdf").write_bytes(report())
    return root


def module(package: Path) -> Path:
    return package / INFERENCE_NAME / f"{INFERENCE_NAME}_1.py"


def predictions(package: Path) -> Path:
    return package / "predictions" / f"{INFERENCE_NAME}_1"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_json(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def set_figure(device: str, key: str, value: object):
    def change(data: dict) -> None:
        data["per_device"][device][key] = value

    return lambda p: edit_json(predictions(p) / "complexity.json", change)


def edit_meta(package: Path, change) -> None:
    """Apply `change` to the content of the package's meta file."""
    from common.settings.yaml_file import read_yaml

    path = next(package.rglob("*.meta.yaml"))
    data = read_yaml(path).data
    change(data)
    write_yaml(path, data)


def edit_declaration(package: Path, change) -> None:
    path = package / "made_up_evaluation_set.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


SOUND_IDS = [f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(30)]


def sounds_meta(label: str) -> dict:
    classes = load_rules("task1_2026").shared["classes"]
    values = np.random.default_rng(7).uniform(0.5, 0.9, (len(classes), 2)).round(4)
    figures = {code: {"hP": float(p), "hR": float(r), "hF": round(float(2 * p * r / (p + r)), 4)}
               for code, (p, r) in zip(classes, values)}  # fmt: skip
    overall = {name: round(float(np.mean([one[name] for one in figures.values()])), 4) for name in ("hP", "hR", "hF")}
    return {
        "submission": submission(label),
        "system": {
            "source_code": None,
            "description": {"input_sampling_rate": "44.1kHz", "audio_representation": "CLAP",
                            "text_representation": "CLAP", "machine_learning_method": "HATR"},
            "complexity": {"total_parameters": "36.6 M", "MACS": None},
            "external_datasets": None,
        },
        "results": {"development_datasets": {"bsd10k-v1.2": {"overall": overall, "class_wise": figures},
                                             "bsd35k-cs": {"overall": {"hP": None, "hR": None, "hF": None}}}},
    }  # fmt: skip


def write_sounds(out: Path, number: int = 1) -> Path:
    """A package of task1_2026 with one system more, on a made-up evaluation set of 30 clips."""
    rules, label = load_rules("task1_2026"), f"Lastname_INST_task1_{number}"
    generator = np.random.default_rng(number)
    table = pd.DataFrame({"id": SOUND_IDS})
    table["predicted_bst_second_level_class"] = generator.choice(rules.shared["classes"], len(SOUND_IDS))
    table["prediction_score"] = generator.uniform(0.2, 1, len(SOUND_IDS)).round(4)
    return _write_2026(out, label, {"files": SOUND_IDS}, sounds_meta(label), table.to_csv(index=False), "csv")


MOMENT_QUERIES = [
    {"qid": f"dcase2026_evaluation_q{number:03d}", "query": f"Birds sing {number} times", "duration": 60 + number // 2,
     "vid": f"dcase2026_evaluation_audio_{number // 2:03d}"}
    for number in range(8)
]  # fmt: skip


def moments_meta(label: str) -> dict:
    return {
        "submission": submission(label),
        "system": {
            "model": {"audio_models": ["MS-CLAP"], "text_models": ["MS-CLAP"], "LLMs": None,
                      "trainable_parameters": "7.1 M", "loss_function": ["L1"]},
            "dataset": {"data_augmentation": None, "audio_captions": 2182},
            "ensemble": False,
        },
        "results": {"development_testing": {"Recall1@0.7": 10.17, "Recall1@0.5": 22.74}},
    }  # fmt: skip


def write_moments(out: Path, number: int = 1) -> Path:
    """A package of task6_2026 with one system more, on a made-up evaluation set of eight queries."""
    label = f"Lastname_INST_task6_{number}"
    generator = np.random.default_rng(number)
    lines = []
    for query in MOMENT_QUERIES:
        starts = generator.choice(40, 5, replace=False)
        windows = [[int(start), int(start + generator.integers(1, 20))] for start in starts]
        row = {name: query[name] for name in ("qid", "query", "vid")} | {"pred_relevant_windows": windows}
        lines.append(json.dumps(row))
    durations = {str(query["vid"]): float(query["duration"]) for query in MOMENT_QUERIES}
    qids = {query["qid"]: [query["query"], query["vid"]] for query in MOMENT_QUERIES}
    made_up = {"files": list(durations), "durations": durations, "qids": qids}
    return _write_2026(out, label, made_up, moments_meta(label), "".join(f"{line}\n" for line in lines), "jsonl")


def _write_2026(out: Path, label: str, made_up: dict, content: dict, output: str, ending: str) -> Path:
    task = label.split("_")[2]
    with new_system(label, load_rules(f"{task}_2026"), out, made_up) as folder:
        (folder / f"{label}.output.{ending}").write_text(output)
        write_yaml(folder / f"{label}.meta.yaml", content)
    return out / team_name(label)

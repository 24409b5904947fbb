"""The verbs of the pre-training, for `python -m task4_sed`. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import Positional, print_json, print_table, say, train_verb
from common.runs.run import open_run
from task4_sed.pretraining.settings import OfficeSettings, PretrainSettings

if TYPE_CHECKING:
    from common.runs.recipe import Recipe
    from common.runs.run import Run

CONFIGS = "task4_sed/configs"
NAMES = {"psds1_macro": "PSDS1, mean of classes", "psds1": "PSDS1 with variance penalty", "pauroc": "segment pAUROC"}
OFFICE_NAMES = {
    "onset_f1": "onset F1, 200 ms",
    "onset_f1_50ms": "onset F1, 50 ms",
    "segment_error_rate": "segment error rate",
}


def check_strong(*, root: Path, decode: bool = False, json: bool = False) -> None:
    """Compare AudioSet strong in a folder with its tables: missing clips and their classes.

    Example: --root data/audioset

    Args:
        root: folder with the tables and HDF5 files.
        decode: decode every clip, which takes minutes to hours.
        json: print the report as JSON, with all missing clips.
    """
    from task4_sed.pretraining.check import check_strong as check

    check(root, decode).show(json)


def pack_strong(*, audio: Path, root: Path, encode_rate: int | None = None) -> None:
    """Pack a folder of AudioSet strong clips into HDF5 files, as the tables in `root` list them.

    Example: --root data/audioset

    Args:
        audio: folder of the clips, named Y<YouTube id> or <YouTube id>; subfolders are searched too.
        root: folder with the tables; receives the HDF5 files.
        encode_rate: sample rate in Hz to encode mono mp3 at; by default files are stored unchanged.
    """
    from task4_sed.pretraining.check import pack_strong as pack

    for report in pack(audio, root, encode_rate):
        say(str(report))


def pretrain_evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Print the figures of a finished pre-training, with 95 % intervals.

    Example: runs/task4_sed/pretraining

    Args:
        run: run folder.
        json: print all figures as JSON, also of each class; 0 to 1.
    """
    opened = open_run(run, PretrainSettings)
    if json:
        print_json(opened.read_evaluation())
    else:
        _show_pretraining(opened)


def pretrain_targets(runs: Positional[tuple[Path, ...]], *, out: Path) -> None:
    """Write the mean frame logits of finished runs for every training clip, as targets of a student.

    Example: runs/task4_sed/teacher_a runs/task4_sed/teacher_b --out targets.h5

    Args:
        runs: folders of the teachers' runs; the first one decides the clips.
        out: HDF5 file to write (float16), for `distillation.targets`.
    """
    from task4_sed.pretraining.recipe import write_teacher_logits

    facts = write_teacher_logits(runs, load_pretraining().open(runs[0]).settings, out)
    rows = [{k: f"{100 * v:.1f}" if isinstance(v, float) else v for k, v in fact.items()} for fact in facts]
    print_table(rows, title="Teachers; per cent")
    say(f"Wrote {out}.")


def load_pretraining() -> "Recipe[PretrainSettings]":
    """The recipe of the pre-training."""
    from task4_sed.pretraining.recipe import RECIPE

    return RECIPE


def load_finetuning() -> "Recipe[OfficeSettings]":
    """The recipe of the fine-tuning on DCASE 2016 Task 2."""
    from task4_sed.pretraining.office.recipe import RECIPE

    return RECIPE


def _show_pretraining(run: "Run[PretrainSettings]") -> None:
    found = run.read_evaluation()
    clips, classes = found["clips"], len(found["psds1_macro"]["per_class"])
    _show(found, NAMES, f"{clips['evaluated']:,} clips, {classes} classes")
    if not clips["comparable"]:
        say(f"{len(clips['missing'])} evaluation clips are missing: the figures are not comparable.")
    say(f"{run.folder / 'train/weights.pt'} is a weights file for {run.settings.model.name}.")


def _show_finetuning(run: "Run[OfficeSettings]") -> None:
    found = run.read_evaluation()
    _show(found, OFFICE_NAMES, f"{found['recordings']} recordings")
    say(f"The events are in {run.folder / 'test' / 'events.json'}.")


def _show(found: dict[str, Any], names: dict[str, str], what: str) -> None:
    made_up = "Made-up data: " if found["made_up"] else ""
    rows = []
    for name, label in names.items():
        interval = found[name]["interval"]
        limits = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        rows.append({"figure": label, "value": f"{100 * found[name]['value']:.1f}{limits}"})
    print_table(rows, title=f"{made_up}{found['model']}, seed {found['seed']}, {what}; per cent")


VERBS = {
    "pretrain": train_verb(
        PretrainSettings, load_pretraining, _show_pretraining,
        "Train a frame model on AudioSet strong and test it: PSDS1 on the evaluation clips.",
        f"{CONFIGS}/pretrain_small.yaml",
    ),
    "pretrain_targets": pretrain_targets,
    "pretrain_evaluate": pretrain_evaluate,
    "finetune_dcase2016": train_verb(
        OfficeSettings, load_finetuning, _show_finetuning,
        "Fine-tune a frame model on DCASE 2016 Task 2 and test it: event-based onset F1.",
        f"{CONFIGS}/finetune_dcase2016_small.yaml",
    ),
}  # fmt: skip

"""The verbs of the pre-training, for `python -m task4_sed`. No torch here."""

from pathlib import Path
from typing import Any

from common.cli import Positional, Repeated, print_json, print_table, say
from common.errors import CheckFailed
from task4_sed.pretraining.settings import OfficeSettings, PretrainSettings

PRETRAIN_SMALL = "task4_sed/configs/pretrain_small.yaml"


def check_strong(*, root: Path, decode: bool = False, json: bool = False) -> None:
    """Compare AudioSet strong in a folder with its tables: which clips are missing, and of which classes.

    Args:
        root: folder with the tables and HDF5 files.
        decode: decode every clip, which takes minutes to hours.
        json: print what was found as JSON, with all missing clips.
    """
    from dataclasses import asdict

    from task4_sed.pretraining.check import check_strong as check

    found = check(root, decode)
    if json:
        print_json(asdict(found))
    else:
        print_table(found.rows, title=f"{'Made-up data in ' if found.made_up else ''}{root}")
        if found.classes:
            print_table(found.classes, title="Classes that miss the largest share of their clips")
    if found.problems:
        raise CheckFailed("\n".join(found.problems))
    say("The data are as they should be.")


def pack_strong(*, audio: Path, root: Path, encode_rate: int | None = None) -> None:
    """Pack a folder of clips of AudioSet strong into HDF5 files, as the tables in `root` list them.

    Args:
        audio: folder with the clips, named Y<YouTube id> or <YouTube id>; folders in it are searched too.
        root: folder with the tables; the HDF5 files are written there.
        encode_rate: Hz; makes mono mp3 of this rate. Left out, the files are stored as they are.
    """
    from task4_sed.pretraining.check import pack_strong as pack

    for report in pack(audio, root, encode_rate):
        say(str(report))


def pretrain(
    settings: PretrainSettings, *, resume: Path | None = None, redo: Repeated[str] = (), fast_check: bool = False
) -> None:
    """Train a frame model on AudioSet strong and test it: PSDS1 on the evaluation clips.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again (targets, train or test), with those that build on it; may be given several times.
        fast_check: two steps of everything in a temporary folder, to see that it works.
    """
    from task4_sed.pretraining.recipe import WEIGHTS, check_recipe, run_recipe

    if fast_check:
        check_recipe(settings)
        return
    finished = run_recipe(settings, resume, redo)
    _show(finished)
    say(f"The run is in {finished.folder}; {finished.folder / WEIGHTS} is a file of weights for {settings.model.name}.")


def pretrain_evaluate(run: Positional[Path], *, json: bool = False) -> None:
    """Show the figures of a finished pre-training, with 95 % intervals.

    Args:
        run: run folder.
        json: print all figures as JSON, class by class; 0 to 1.
    """
    from task4_sed.pretraining.recipe import open_pretraining, read_evaluation

    opened = open_pretraining(run)
    if json:
        print_json(read_evaluation(opened))
        return
    _show(opened)


def pretrain_targets(runs: Positional[tuple[Path, ...]], *, out: Path) -> None:
    """Write the mean of the frame logits of finished runs for every training clip, to learn from.

    Args:
        runs: folders of the teachers' runs; the clips are those of the first.
        out: HDF5 file to write (float16), for `distillation.targets`.
    """
    from task4_sed.pretraining.recipe import open_pretraining, teacher_logits

    facts = teacher_logits(runs, open_pretraining(runs[0]).settings, out)
    print_table([_in_per_cent(fact) for fact in facts], title="Teachers; per cent")
    say(f"Wrote {out}.")


def finetune_dcase2016(settings: OfficeSettings, *, resume: Path | None = None, redo: Repeated[str] = ()) -> None:
    """Fine-tune a frame model on DCASE 2016 Task 2 and test it: event-based onset F1.

    Args:
        resume: run folder to go on with; its settings.yaml takes the place of CONFIG.yaml.
        redo: stage to do again (train or test), with those that build on it; may be given several times.
    """
    from task4_sed.pretraining.office.recipe import read_evaluation, run_recipe
    from task4_sed.pretraining.report import office_rows

    finished = run_recipe(settings, resume, redo)
    found = read_evaluation(finished)
    made_up = "Made-up data: " if found["made_up"] else ""
    title = f"{made_up}{found['model']}, seed {found['seed']}, {found['recordings']} recordings; per cent"
    print_table(office_rows(found), title=title)
    say(f"The run is in {finished.folder}; the events are in {finished.folder / 'test' / 'events.json'}.")


def _show(run: Any) -> None:
    from task4_sed.pretraining.recipe import read_evaluation
    from task4_sed.pretraining.report import figure_rows, title

    found = read_evaluation(run)
    print_table(figure_rows(found), title=title(found))
    if not found["clips"]["comparable"]:
        say(f"{len(found['clips']['missing'])} evaluation clips are missing: the figures are not comparable.")


def _in_per_cent(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{100 * value:.1f}" if isinstance(value, float) else value for name, value in row.items()}

"""`data check` of own clips: what `finetune` would train on, and files that it could not."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.audioset.settings import FineTuneDataSettings
from common.audioset.tasks import read_task
from common.data.audio import AudioError, audio_info
from common.data.check_report import CheckReport
from common.errors import UserError
from common.output import Progress


def check_clips(settings: FineTuneDataSettings, num_workers: int = 8) -> CheckReport:
    """Count the clips of each class in each part, and open every file."""
    report = CheckReport(settings.root)
    try:
        clips = read_task(settings)
    except UserError as error:
        report.problems.append(str(error))
        return report
    report.notes += [clips.note] if clips.note else []
    parts = sorted(set(clips.parts.tolist()))
    for number, label in enumerate(clips.labels):
        own = clips.targets[:, number] > 0
        report.rows.append({"class": label, **{part: int((own & (clips.parts == part)).sum()) for part in parts}})
    with ThreadPoolExecutor(num_workers) as pool, Progress("Checking", len(clips)) as progress:
        for found in pool.map(_problem, clips.paths):
            report.problems += [found] if found else []
            progress.advance()
    return report


def _problem(path: Path) -> str:
    try:
        audio_info(path)
    except AudioError as error:
        return str(error)
    return ""

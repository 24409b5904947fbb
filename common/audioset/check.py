"""`data check` of own clips: what `finetune` would train on, and files that it could not."""

from common.audioset.settings import FineTuneDataSettings
from common.audioset.tasks import TEST, TRAIN, VALIDATION, read_task
from common.data.audio import AudioError
from common.data.check_report import CheckReport, read_headers
from common.errors import UserError


def check_clips(settings: FineTuneDataSettings, num_workers: int = 8) -> CheckReport:
    """Count the clips of each class in each part, and open every file."""
    report = CheckReport(settings.root)
    try:
        clips = read_task(settings)
    except UserError as error:
        report.problems.append(str(error))
        return report
    report.notes += [clips.note] if clips.note else []
    parts = clips.folds or [part for part in (TRAIN, VALIDATION, TEST) if part in clips.parts]
    for number, label in enumerate(clips.labels):
        own = clips.targets[:, number] > 0
        report.rows.append({"class": label, **{part: int((own & (clips.parts == part)).sum()) for part in parts}})
    headers = read_headers(clips.paths, workers=num_workers)
    report.problems += [str(header) for header in headers if isinstance(header, AudioError)]
    return report

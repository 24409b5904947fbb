"""Small made-up data sets in the official layout of each task, for trying the kit without a download."""

from pathlib import Path

from common.errors import UserError, unknown
from common.synthetic.audioset import AUDIOSET
from common.synthetic.audioset_strong import AUDIOSET_STRONG
from common.synthetic.broad_sounds import BROAD_SOUNDS
from common.synthetic.dcase2016 import DCASE2016
from common.synthetic.imitation import IMITATION
from common.synthetic.moments import MOMENTS
from common.synthetic.retrieval import RETRIEVAL
from common.synthetic.task1 import write_task1
from common.synthetic.task4 import TASK4

DATA_SETS = (TASK4, RETRIEVAL, IMITATION, MOMENTS, AUDIOSET, AUDIOSET_STRONG, DCASE2016, BROAD_SOUNDS)
WRITERS = {"task1_asc": write_task1, **{data_set.task: data_set.make for data_set in DATA_SETS}}


def synthesize(task: str, root: Path, clips: int | None = None, seed: int = 0) -> dict[str, int]:
    """Write the made-up data set of a task, of about `clips` clips; returns names and counts of the products.

    The same seed gives the same files, bit for bit. A folder that holds something else already is a UserError.
    """
    if task not in WRITERS:
        raise unknown("task with made-up data", task, WRITERS)
    if clips is not None and clips < 1:
        raise UserError(f"A data set of {clips} clips cannot be made; give a positive number to --clips.")
    return WRITERS[task](Path(root), clips, seed)

"""A baseline of Task 4 that trains in moments."""

from task4_sed.labels import CLASSES
from tests.support.places import ROOT

BASELINE_MEDIAN_FRAMES = dict(
    zip(CLASSES, (3, 9, 9, 5, 5, 5, 9, 7, 11, 9, 7, 3, 9, 13, 7, 1, 13, 3, 13, 7, 5, 5, 1, 13, 17, 13, 15), strict=True)
)
SMALL = ROOT / "task4_sed" / "configs" / "small.yaml"
BATCH = [
    {"sets": ["maestro_train"], "clips": 2},
    {"sets": ["strong", "synthetic_train"], "clips": 2},
    {"sets": ["weak"], "clips": 2},
    {"sets": ["unlabeled"], "clips": 1},
]
# A network that takes milliseconds, with everything that is random or has a state.
QUICK = {
    "front_end.n_mels": 16,
    "model.filters": [2, 4],
    "model.pooling": [[4, 4], [1, 4]],
    "model.rnn_dim": 4,
    "model.num_rnn_layers": 1,
    "data.batch": BATCH,
    "mixup.probability": 0.7,
    "trainer.epochs": 2,
    "trainer.validate_every": 1,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
}

"""The winner's recipe of Task 4, small enough to train in moments, and its batches."""

import torch

from task4_sed.iterations.data import training_loader, training_sets
from task4_sed.iterations.settings import StageSettings, TwoIterations
from tests.support.places import ROOT

SMALL = ROOT / "task4_sed" / "configs" / "two_iterations_small.yaml"
BATCH = {"maestro": 2, "strong": 2, "synthetic": 1, "weak": 2, "unlabeled": 2}
TINY = {"dim": 24, "depth": 2, "num_heads": 2}
QUICK = {
    "front_end.n_mels": 16,
    "crnn.filters": [2, 4],
    "crnn.pooling": [[4, 4], [1, 4]],
    "crnn.fusion_dim": 8,
    "crnn.rnn_dim": 4,
    "transformers.atst.options": TINY,
    "transformers.fpasst.options": {**TINY, "num_mels": 64},
    "transformers.beats.options": {**TINY, "dim": 48, "hidden_dim": 16, "patch_dim": 8},
    "stage1.batch": BATCH,
    "stage2.batch": BATCH,
    "stage1.epochs": 1,
    "stage2.epochs": 1,
    "postprocessing.boxes": None,
    "trainer.validate_every": 1,
    "trainer.accelerator": "cpu",
    "trainer.measure_energy": False,
}


def batch_of(settings: TwoIterations, pseudo: bool = False, stage: StageSettings | None = None) -> dict:
    sets, _ = training_sets(settings, settings.stage1.batch)
    loader = training_loader(settings, stage or settings.stage2, sets, None, 0, pin_memory=False)
    batch = next(iter(loader))
    if pseudo:
        batch["pseudo"] = torch.rand(batch["strong"].shape, generator=torch.Generator().manual_seed(5))
    return batch


def everything_on(**differs) -> dict:
    """Every augmentation in every step."""
    return {
        "wavmix": {"probability": 1.0},
        "time_mask": {"pseudo_labels": "masked"},
        "mixup": {"probability": 1.0},
        "mixstyle": {"probability": 1.0},
        "filter": {"probability": 1.0, "on_log_mels": "add"},
        "frequency_warp": {"probability": 1.0},
        **differs,
    }

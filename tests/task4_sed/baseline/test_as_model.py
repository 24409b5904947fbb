"""A Task 4 run where `common` takes a model."""

import numpy as np
import pytest
import torch

from common.data.audio import write_wav
from common.data.files import write_json
from common.inference.tagging import EventOptions, load_tagger, tag_file
from common.settings import dump_settings, load_settings
from common.training.checkpoints import save_checkpoint
from task4_sed.baseline.network import SoundEventDetector
from task4_sed.baseline.settings import Task4Settings
from task4_sed.systems import load_recipe, score_file
from tests.support.quick_task4 import QUICK, SMALL


@pytest.fixture
def finished(tmp_path):
    """A run with random weights, and a recording of 10 s."""
    changes = {**QUICK, "runs": str(tmp_path), "name": "run", "postprocessing.median_frames": 1}
    settings = load_settings(Task4Settings, SMALL, changes)
    torch.manual_seed(0)
    folder = tmp_path / "run"
    save_checkpoint({"state_dict": SoundEventDetector(settings).state_dict()}, folder / "train" / "last.ckpt")
    (folder / "settings.yaml").write_text(dump_settings(settings))
    write_json(folder / "train" / "stage.json", {"package": "task4_sed.baseline", "settings": {}})
    sound = 0.1 * np.random.default_rng(0).standard_normal(160000, dtype=np.float32)
    write_wav(tmp_path / "clip.wav", sound, 16000, subtype="FLOAT")
    return folder, sound


def test_frames_are_those_that_the_task_scores(finished):
    folder, sound = finished
    model = load_tagger(str(folder))
    with torch.inference_mode():
        output = model(torch.from_numpy(sound)[None])
    scores = score_file(load_recipe().open(folder), str(folder.parent / "clip.wav"))
    assert tuple(scores["labels"]) == model.labels
    assert np.allclose(output.frame_logits[0].sigmoid().numpy(), scores["scores"], atol=1e-3)  # 16 bit in the task


def test_a_longer_recording_has_tags_and_events_to_its_end(finished, tmp_path):
    folder, sound = finished
    write_wav(tmp_path / "long.wav", np.tile(sound, 3)[:400000], 16000, subtype="FLOAT")
    found = tag_file(load_tagger(str(folder)), tmp_path / "long.wav", 3, EventOptions(threshold=0.3))
    assert len(found.tags) == 3 and max(event.offset for event in found.events) == 25.0

"""One training step of every kind of training, on batches of noise."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from common.audioset.settings import PretrainSettings as AudioSetSettings
from common.audioset.train import TaggingTraining
from common.data.audio import write_wav
from common.models.text import TextEncoder
from common.registry.models import create_audio_model
from common.settings import load_settings
from retrieval.correspondences import EstimatedCorrespondences, write_teacher
from retrieval.data.clips import collate, split_windows
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import ImitationSettings
from retrieval.imitation.train import ImitationModule
from retrieval.model import DualEncoder
from retrieval.settings import Correspondences, Training
from retrieval.train import RetrievalModule
from task1_asc.networks.build import make_model
from task1_asc.settings import Task1Settings
from task1_asc.train import SceneTraining
from task4_sed.baseline.settings import Task4Settings
from task4_sed.baseline.train import SoundEventTraining
from task4_sed.iterations.settings import TwoIterations
from task4_sed.iterations.train import StageTraining
from task4_sed.pretraining.clips import CLASSES
from task4_sed.pretraining.networks import make_model as make_frame_model
from task4_sed.pretraining.settings import PretrainSettings
from task4_sed.pretraining.train import Pretraining
from tests.support.places import ROOT
from tests.support.quick_iterations import everything_on

Case = tuple[LightningModule, dict[str, Any]]
TINY = {"dim": 24, "depth": 2, "num_heads": 2}
TINY_BEATS = {**TINY, "dim": 48, "hidden_dim": 16, "patch_dim": 8}
SMALL_BATCH = {"maestro": 3, "strong": 2, "synthetic": 2, "weak": 3, "unlabeled": 3}
STAGE_MODELS = {"atst": "atst_frame", "fpasst": "fpasst", "beats": "beats"}


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Waveforms (clips, samples)."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=1)
def responses() -> tempfile.TemporaryDirectory[str]:
    """A folder with four impulse responses, for as long as the process lasts."""
    folder = tempfile.TemporaryDirectory()
    for number in range(4):
        response = np.random.default_rng(number).normal(size=4800) * np.exp(-np.arange(4800) / 300)
        write_wav(Path(folder.name) / f"{number}.wav", (0.1 * response).astype(np.float32), 16000)
    return folder


def scenes(full: bool, config: str = "baseline", **changes: Any) -> Case:
    """Task 1."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    if config != "baseline":
        changes["augment.impulse_responses.folder"] = responses().name
        changes["augment.impulse_responses.probability"] = 1.0
    changes["augment.freq_mixstyle.probability"] = 1.0
    settings = load_settings(Task1Settings, ROOT / f"task1_asc/configs/{config}.yaml", changes)
    clips = settings.loader.batch_size if full else 4
    batch = {"waveform": noise(clips, 32000), "target": torch.arange(clips) % 10, "recording_device": ["a"] * clips}
    if settings.distillation is not None:
        batch["teacher_logits"] = noise(clips, 10)
    return SceneTraining(settings, 32000, make_model(settings, 32000)), batch


def events(full: bool, mixed: bool = True) -> Case:
    """The baseline of Task 4, with cached embeddings."""
    changes = {"mixup.probability": float(mixed), "embeddings": "cached"}
    if not full:
        changes |= {"model.filters": [2, 4, 4, 4, 4, 4, 4], "model.rnn_dim": 4}
    settings = load_settings(Task4Settings, ROOT / "task4_sed/configs/baseline.yaml", changes)
    clips = sum(group.clips for group in settings.data.batch)
    batch = event_batch(clips) | {"embeddings": noise(clips, 496, 768).half()}
    return SoundEventTraining(settings), batch


def event_batch(clips: int) -> dict[str, Tensor]:
    """Noise with random labels of Task 4."""
    generator = torch.Generator().manual_seed(1)
    return {
        "waveform": noise(clips, 160_000),
        "strong": (torch.rand(clips, 27, 156, generator=generator) > 0.9).float(),
        "weak": (torch.rand(clips, 27, generator=generator) > 0.8).float(),
        "valid": torch.ones(clips, 27, dtype=torch.bool),
    }


def stage(full: bool, name: str, number: int) -> Case:
    """A stage of the winner of Task 4, with every augmentation in the step."""
    on = everything_on(impulse_responses={"folder": responses().name, "probability": 1.0})
    changes: dict[str, Any] = {"stage2.augment": on, f"transformers.{name}.stage{number}": {"augment": on}}
    for other, model in STAGE_MODELS.items():
        changes[f"transformers.{other}.untrained"] = True
        changes[f"transformers.{other}.model"] = model
        changes[f"transformers.{other}.weights"] = None
    if not full:
        changes |= {"stage1.batch": SMALL_BATCH, "stage2.batch": SMALL_BATCH, "crnn.rnn_dim": 4, "crnn.fusion_dim": 8}
        changes["crnn.filters"] = [2, 4, 4, 4, 4, 4, 4]
        changes[f"transformers.{name}.options"] = TINY_BEATS if name == "beats" else TINY
    changes["data.exclude"] = {}
    settings = load_settings(TwoIterations, ROOT / "task4_sed/configs/two_iterations.yaml", changes)
    module = StageTraining(settings, name, 1, number)
    return module, event_batch(module.rows.count)


def frames(full: bool, name: str, clips: int | None = None) -> Case:
    """Pre-training of a frame model, with every augmentation in the step."""
    changes: dict[str, Any] = {f"augmentation.{name}.probability": 1.0 for name in ("mixup", "mixstyle", "filter")}
    changes |= {"augmentation.frequency_warp.probability": 1.0, "augmentation.filter.on_log_mels": "add"}
    changes |= {"augmentation.time_mask.largest": 0.3, "model.untrained": True, "model.name": name}
    if not full:
        tiny = {"width_mult": 0.1} if name.startswith("frame") else TINY_BEATS if name == "beats" else TINY
        changes["model.options"] = tiny
    config = f"pretrain_{name}"
    settings = load_settings(PretrainSettings, ROOT / f"task4_sed/configs/{config}.yaml", changes)
    clips = clips or (settings.data.batch_size if full else 2)
    target = (torch.rand(clips, len(CLASSES), 250, generator=torch.Generator().manual_seed(2)) > 0.97).float()
    batch = {"waveform": noise(clips, 160_000), "target": target, "first": 0, "joint": clips}
    if settings.distillation is not None:
        batch["distilled"] = target
    return Pretraining(settings, make_frame_model(settings.model, CLASSES)), batch


def tags(full: bool, name: str) -> Case:
    """Tagging, with distillation."""
    config = {"passt_s_swa": "passt"}.get(name, name)
    changes: dict[str, Any] = {"model.name": name, "augment.frequency_mask": 20, "augment.time_mask": 50}
    changes["augment.mixup_alpha"] = 0.3
    if not full and name.startswith("passt"):
        changes |= {"model.options.embed_dim": 24, "model.options.depth": 2, "model.options.num_heads": 2}
    elif not full:
        changes["model.options.width_mult"] = 0.1
    settings = load_settings(AudioSetSettings, ROOT / f"common/audioset/configs/{config}.yaml", changes)
    clips = settings.loader.batch_size if full else 4
    labels = [str(number) for number in range(527)]
    taught = {"teacher_target": noise(clips, 527).sigmoid(), "teacher_weight": torch.ones(clips, 1)}
    known = {"target": (noise(clips, 527) > 0.1).float(), "weight": torch.ones(clips, 527)}
    return TaggingTraining(settings, labels, label_weight=0.1), {"waveform": noise(clips, 320_000), **known, **taught}


class Tokens(nn.Embedding):
    """States of tokens, as the models of transformers give them."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """(texts, tokens) to (texts, tokens, dim)."""
        return SimpleNamespace(last_hidden_state=super().forward(input_ids))


class SmallText(TextEncoder):
    """A text encoder without a tokenizer: an embedding of always the same tokens."""

    def __init__(self, dim: int):
        nn.Module.__init__(self)
        self.model = Tokens(100, dim)
        self.pooling, self.dim, self.max_tokens, self._known = "mean", dim, 12, None

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """As many tokens for each caption."""
        tokens = torch.ones(len(captions), self.max_tokens, dtype=torch.int64)
        return {"input_ids": tokens, "attention_mask": tokens.clone()}


def pairs(full: bool, taught: bool) -> Case:
    """Retrieval: contrasted pairs, or with two teachers' correspondences."""
    clips = 64 if full else 4
    options = {} if full else {"width_mult": 0.1}
    audio = create_audio_model("mn10", **options)
    dim = audio(torch.zeros(1, 32000)).embedding.shape[1]
    model = DualEncoder(audio, SmallText(64), dim, dim=64)
    names, captions = [[f"{kind} {number}" for number in range(clips)] for kind in ("clip", "caption")]
    teachers, weights = None, Correspondences(contrastive_weight=1.0)
    if taught:
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / str(number) for number in range(2)]
            for place in places:
                write_teacher(place, names, noise(clips, 32), captions, noise(clips, 32), "dcase2024")
            teachers = EstimatedCorrespondences(places, names, captions, "dcase2024")
    seconds = 10 if full else 1
    items = [
        {"clip": number, "windows": split_windows(noise(2 * seconds * 32000), seconds * 32000),
         "samples": 2 * seconds * 32000, "captions": [captions[number]]}
        for number in range(clips)
    ]  # fmt: skip
    return RetrievalModule(model, Training(), teachers, weights), collate(items)


def imitations(full: bool) -> Case:
    """Query by vocal imitation."""
    settings = load_settings(
        ImitationSettings, ROOT / "retrieval/configs/imitation.yaml", {"augmentation.mixstyle_probability": 1.0}
    )
    audio = create_audio_model("mn10", **({} if full else {"width_mult": 0.1}))
    clips = settings.training.batch_size if full else 4
    seconds = 10 if full else 2
    batch = {name: noise(clips, seconds * 32000) for name in ("imitation", "recording")}
    return ImitationModule(ImitationModel(audio), settings, None), batch | {"label": torch.arange(clips)}


CASES: dict[str, Callable[[bool], Case]] = {
    "task1 baseline": scenes,
    "task1 responses": partial(scenes, config="baseline_dir_fms"),
    "task1 distilled": partial(scenes, config="distilled"),
    "task1 mixup": partial(scenes, augment__mixup_alpha=0.3, augment__gain_db=3.0, augment__time_mask=10),
    "task4 baseline": events,
    "task4 baseline, not mixed": partial(events, mixed=False),
    **{f"task4 stage {n} {name}": partial(stage, name=name, number=n) for name in STAGE_MODELS for n in (1, 2)},
    **{f"frame {name}": partial(frames, name=name) for name in ("beats", "atst_frame", "fpasst", "m2d", "asit")},
    "frame frame_mn06": partial(frames, name="frame_mn06"),
    **{f"tagging {name}": partial(tags, name=name) for name in ("mn10", "dymn10", "passt_s_swa")},
    "retrieval": partial(pairs, taught=False),
    "retrieval, taught": partial(pairs, taught=True),
    "imitation": imitations,
}


@contextmanager
def autocast(precision: str) -> Iterator[None]:
    """As Lightning does for a precision of the trainer."""
    dtype = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision, torch.float16)
    with torch.autocast("cuda", dtype=dtype, enabled=precision != "32-true"):
        yield


def attach(module: LightningModule) -> LightningModule:
    """What a module asks its trainer for, without one; its logs go nowhere."""
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=5, current_epoch=0, max_epochs=10, estimated_stepping_batches=1000, world_size=1, global_rank=0
    )
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    return module.train()


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """As Lightning moves a batch."""
    return move_data_to_device(batch, device)

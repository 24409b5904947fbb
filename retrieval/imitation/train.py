"""Query by vocal imitation: a voice finds the recording that it imitates.

"Improving Query-by-Vocal Imitation with Contrastive Learning and Audio Pretraining" (DCASE workshop 2024), and the
baseline of the QVIM 2025 challenge.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from common.data.audio import read_audio
from common.data.loading import make_loader
from common.data.made_up import is_made_up
from common.features.augment import freq_mixstyle, frequency_mask, time_mask, time_roll
from common.files import write_json
from common.models.audio_model import AudioModel
from common.reports.statistics import Interval
from common.runs.energy import EnergyMeter
from common.runs.stages import Run, Stage, do_two_steps, run_stages
from common.training.checkpoints import load_weights
from common.training.schedules import ExponentialWarmupLinearDown
from common.training.seeds import seed_all, step_generator
from common.training.trainer import fit, make_trainer
from retrieval.evaluate import TIE_RULE, as_json, mean_interval_over
from retrieval.imitation.data import Search, coarse_search, read_search, read_training
from retrieval.imitation.settings import ImitationAugmentation, ImitationSettings
from retrieval.losses import imitation_loss
from retrieval.metrics import normalized_gain, recall, reciprocal_rank
from retrieval.recipe import result_row
from retrieval.train import make_audio_encoder, on_this_machine


class ImitationModel(nn.Module):
    """An encoder for the voice and one for recordings (or one for both), whose embeddings are compared by cosine.

    Args:
        audio: encoder of recordings; a copy of it starts as encoder of the voice.
        shared: use it for both.
    """

    def __init__(self, audio: AudioModel, shared: bool = False):
        super().__init__()
        self.recording = audio
        self.voice = audio if shared else copy.deepcopy(audio)

    @property
    def sample_rate(self) -> int:
        """Hz of both inputs."""
        return self.recording.sample_rate

    @torch.inference_mode()
    def encode(self, paths: Sequence[Path], voice: bool, duration: float, batch_size: int) -> Tensor:
        """Sounds to unit vectors: (paths, dim) on the CPU; the first `duration` seconds of each are heard."""
        encoder = self.voice if voice else self.recording
        device = next(self.parameters()).device
        self.eval()
        parts = []
        for start in range(0, len(paths), batch_size):
            waveforms = [read_beginning(path, self.sample_rate, duration) for path in paths[start : start + batch_size]]
            embedding = encoder(torch.stack(waveforms).to(device)).embedding
            parts.append(functional.normalize(embedding.float(), dim=1).cpu())
        return torch.cat(parts)

    def compute_similarities(
        self, items: Mapping[str, Path], queries: Mapping[str, Path], duration: float = 10.0, batch_size: int = 32
    ) -> dict[str, dict[str, float]]:
        """The interface of the QVIM 2025 challenge: query id to item id to similarity, higher is closer."""
        recordings = self.encode([Path(path) for path in items.values()], False, duration, batch_size)
        voices = self.encode([Path(path) for path in queries.values()], True, duration, batch_size)
        similarity = (voices @ recordings.mT).tolist()
        return {query: dict(zip(items, row, strict=True)) for query, row in zip(queries, similarity, strict=True)}


def read_beginning(path: Path, sample_rate: int, duration: float) -> Tensor:
    """The first `duration` seconds, zeros behind a shorter sound: (samples,)."""
    samples = round(duration * sample_rate)
    waveform = torch.from_numpy(read_audio(path, sample_rate, duration=duration))[:samples]
    return functional.pad(waveform, (0, samples - len(waveform)))


class ImitationPairs(Dataset):
    """Items are dicts: imitation and recording (samples,), label (number), index."""

    def __init__(self, pairs: pd.DataFrame, sample_rate: int, duration: float):
        self.pairs, self.sample_rate, self.duration = pairs, sample_rate, duration
        self.labels = pd.factorize(pairs["label"])[0]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "imitation": read_beginning(self.pairs["imitation"].iat[index], self.sample_rate, self.duration),
            "recording": read_beginning(self.pairs["recording"].iat[index], self.sample_rate, self.duration),
            "label": int(self.labels[index]),
            "index": index,
        }


class Mask:
    """Frequency and time mask of the log-mel spectrogram, before it is normalised."""

    def __init__(self, settings: ImitationAugmentation):
        self.settings = settings
        self.generator = torch.Generator()

    def __call__(self, log_mel: Tensor) -> Tensor:
        """(batch, 1, mels, frames), same shape."""
        masked = frequency_mask(log_mel, self.settings.frequency_mask, self.generator)
        return time_mask(masked, self.settings.time_mask, self.generator)


class ImitationModule(LightningModule):
    """Adapted NT-Xent from imitation to recording, on pairs of one batch."""

    def __init__(self, model: ImitationModel, settings: ImitationSettings, validation: Search):
        super().__init__()
        self.model, self.settings, self.search = model, settings, validation
        self.mask = Mask(settings.augmentation)
        for encoder in (model.voice, model.recording):
            if hasattr(encoder.front_end, "mask"):
                encoder.front_end.mask = self.mask

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        augmentation, training = self.settings.augmentation, self.settings.training
        self.mask.generator = step_generator(self, self.settings.seed, batch_idx)
        imitation = time_roll(batch["imitation"], augmentation.roll, self.mask.generator)
        voice = self._embed(self.model.voice, imitation)
        recording = self._embed(self.model.recording, batch["recording"])
        label = batch["label"] if training.mask_same_label else batch["index"]
        loss = imitation_loss(voice, recording, label, training.temperature)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(voice))
        return loss

    def _embed(self, encoder: AudioModel, waveform: Tensor) -> Tensor:
        with torch.autocast(waveform.device.type, enabled=False):
            spectrogram = encoder.front_end(waveform.float())
        augmentation = self.settings.augmentation
        spectrogram = freq_mixstyle(
            spectrogram, augmentation.mixstyle_probability, augmentation.mixstyle_alpha, self.mask.generator
        )
        return encoder.network(spectrogram).embedding.float()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing by batch: the search runs once per epoch."""

    def on_validation_epoch_end(self) -> None:
        """Log the MRR of other imitations of the training sounds."""
        similarity = search_similarity(self.model, self.search, self.settings)
        self.log("MRR", reciprocal_rank(*_candidates(similarity, self.search)).mean(), rank_zero_only=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam and the published course of its rate."""
        training = self.settings.training
        optimizer = torch.optim.Adam(self.model.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        schedule = ExponentialWarmupLinearDown(
            training.warmup_epochs, training.down_start, training.down_length, training.floor
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


def search_similarity(model: ImitationModel, search: Search, settings: ImitationSettings) -> Tensor:
    """(queries, items) cosines."""
    seconds, batch = settings.data.duration, settings.eval_batch
    voices = model.encode(search.queries, True, seconds, batch)
    return voices @ model.encode(search.items, False, seconds, batch).mT


def score_search(similarity: Tensor, search: Search, seed: int = 0) -> dict[str, Interval]:
    """Figures of a search, with 95 % intervals by bootstrap over the imitated items.

    Returns:
        "MRR", "R@1", "R@2" over queries; "NDCG" where every item of the target's class counts; with several groups also
        "MRR per concept": the mean over the groups of each group's mean (QBV's fine-grained protocol).
    """
    candidates, relevant = _candidates(similarity, search)
    ranks = reciprocal_rank(candidates, relevant)
    target = np.array(search.target)
    labels = np.array(search.label)
    same_class = torch.from_numpy(labels[target][:, None] == labels[None])
    figures = {
        "MRR": mean_interval_over(ranks, target, seed),
        "R@1": mean_interval_over(recall(candidates, relevant, 1), target, seed),
        "R@2": mean_interval_over(recall(candidates, relevant, 2), target, seed),
    }
    if len(set(search.item_group)) == 1:
        figures["NDCG"] = mean_interval_over(normalized_gain(similarity, same_class), target, seed)
    else:
        per_concept = pd.Series(ranks.numpy()).groupby(search.group).mean()
        figures["MRR per concept"] = mean_interval_over(
            torch.tensor(per_concept.to_numpy()), np.arange(len(per_concept)), seed
        )
    return figures


def _candidates(similarity: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Items of other groups put behind all candidates; and which item each query looks for."""
    groups = {name: i for i, name in enumerate(dict.fromkeys(search.item_group))}
    item_group = torch.tensor([groups[name] for name in search.item_group])
    query_group = torch.tensor([groups[name] for name in search.group])
    relevant = torch.tensor(search.target)[:, None] == torch.arange(len(search.items))
    return similarity.masked_fill(query_group[:, None] != item_group[None], -torch.inf), relevant


def train_imitation(run: Run, settings: ImitationSettings, fast_check: bool = False) -> None:
    """Train; best.ckpt has the highest validation MRR."""
    training_pairs, validation_pairs = read_training(settings.data)
    seed_all(settings.seed)
    model = ImitationModel(make_audio_encoder(settings.audio), settings.shared)
    folder, training = run.folder / "train", settings.training
    trainer = make_trainer(
        on_this_machine(training.trainer), folder, settings.seed, monitor="MRR", fast_check=fast_check
    )
    loader = make_loader(
        ImitationPairs(training_pairs, model.sample_rate, settings.data.duration),
        training.batch_size,
        shuffle_seed=settings.seed,
        num_workers=settings.data.workers,
        drop_last=len(training_pairs) >= training.batch_size,
    )
    module = ImitationModule(model, settings, coarse_search(validation_pairs))
    once = torch.utils.data.DataLoader(torch.zeros(1, 1))
    with EnergyMeter(folder if training.trainer.measure_energy else None, training.trainer.country):
        fit(trainer, module, loader, once)


def evaluate_imitation(run: Run, settings: ImitationSettings, fast_check: bool = False) -> None:
    """evaluation/: figures.json and the similarities of the test."""
    model = load_imitation_model(run, settings)
    search = read_search(settings.data)
    similarity = search_similarity(model, search, settings)
    figures = as_json(score_search(similarity, search, settings.seed))
    write_json(
        run.folder / "evaluation" / "figures.json",
        {
            "figures": {settings.data.layout: figures},
            "clips": {"queries": len(search.queries), "items": len(search.items)},
            "made_up": is_made_up_run(settings),
            "tie_rule": TIE_RULE,
        },
    )
    names = {"queries": [path.name for path in search.queries], "items": [path.name for path in search.items]}
    write_json(run.folder / "evaluation" / "similarities.json", {**names, "similarity": similarity.tolist()})


def load_imitation_model(run: Run, settings: ImitationSettings) -> ImitationModel:
    """The best checkpoint of a run, on the GPU where there is one."""
    model = ImitationModel(make_audio_encoder(settings.audio), settings.shared)
    load_weights(model, run.files("train/best.ckpt")[0], prefix="model.")
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def sweep_cell(settings: ImitationSettings) -> dict[str, float]:
    """One cell of a sweep: the run that the settings name, and its figures."""
    run_imitation(settings, settings.folder)
    return result_row(settings.folder)


def is_made_up_run(settings: ImitationSettings) -> bool:
    """Whether the data of a run are made up."""
    return is_made_up(settings.data.root)


STAGES = [
    Stage("train", train_imitation, uses=("seed", "data", "audio", "shared", "augmentation", "training")),
    Stage("evaluation", evaluate_imitation, uses=("seed", "data", "audio", "shared"), alone=True),
]


def run_imitation(settings: ImitationSettings, folder: Path, redo: Sequence[str] = ()) -> None:
    """Do all stages that are not done."""
    run_stages(Run(folder, settings), STAGES, redo)


def check_imitation(settings: ImitationSettings) -> None:
    """Do two steps of everything in a temporary folder, to see that it works."""
    do_two_steps(settings, STAGES)

"""Does the same-label mask help query by vocal imitation? One recording a label, and six.

    python -m tests.benchmarks.trial_imitation --data FOLDER --weights FILE [--seeds 5] [--work runs/trials]

Real recordings of 21 classes (`--data`: folder with the packs esc10, dcase2016_task2_events and micirp), made-up
imitations: a synthetic voice follows loudness, brightness and noisiness of the recording, through a real microphone.
The trained part is a residual layer pair on each side, over cached embeddings of the released mn04 (`--weights`).
Tested are other recordings of the classes, up to seven of each: mAP over the recordings of the query's class.

Each finished cell is a line of a JSON file in `--work`, and is not computed again.
"""

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import signal
from torch import Tensor, nn
from torch.nn import functional

from common.data.audio import read_audio
from common.data.loading import make_loader
from common.features.front_ends import FrontEnd
from common.features.impulse_responses import DeviceImpulseResponses
from common.models.audio_model import AudioModel
from common.models.network import ModelOutput
from common.registry import load_audio_model
from common.settings.schema import TrainerSettings
from common.training.seeds import seed_all
from common.training.trainer import fit, make_trainer
from retrieval.imitation.model import ImitationModel
from retrieval.imitation.settings import (
    AdamRamps,
    ImitationAugmentation,
    ImitationData,
    ImitationSettings,
    ImitationTraining,
)
from retrieval.imitation.train import ImitationModule
from retrieval.losses import contrastive_loss
from retrieval.metrics import average_precision, reciprocal_rank
from tests.benchmarks.paired_table import Figures, PairedCells

RATE, SECONDS = 32000, 5
VOICES = 6  # made-up imitations of each recording
TRAINED, TESTED = 6, 7  # recordings of a class
Array = np.ndarray


def list_recordings(data: Path) -> pd.DataFrame:
    """Columns path, label and source (takes of one source are the same recording)."""
    esc10 = pd.read_csv(data / "esc10" / "esc10.csv", dtype=str)
    office = pd.read_csv(data / "dcase2016_task2_events" / "events.csv", dtype=str)
    tables = [
        pd.DataFrame({"path": [data / pack / "audio" / name for name in names], "label": labels, "source": sources})
        for pack, names, labels, sources in (
            ("esc10", esc10["filename"], esc10["category"], esc10["src_file"]),
            ("dcase2016_task2_events", office["filename"], office["label"], office["filename"]),
        )
    ]
    return pd.concat(tables, ignore_index=True).drop_duplicates("source", ignore_index=True)


def imitate(waveform: Array, rng: np.random.Generator) -> Array:
    """A made-up voice that follows the recording's loudness, brightness and noisiness, at its own pitch and speed."""
    hop = RATE // 100
    frequency, _, spectrum = signal.stft(waveform, RATE, nperseg=2 * hop, noverlap=hop)
    power = np.abs(spectrum) ** 2 + 1e-10
    loudness = np.sqrt(power.sum(axis=0))
    octave = np.log2((frequency[1:, None] * power[1:]).sum(axis=0) / power[1:].sum(axis=0))
    noisiness = np.exp(np.log(power).mean(axis=0)) / power.mean(axis=0)
    samples = min(SECONDS * RATE, int(len(waveform) * rng.uniform(0.8, 1.25)))
    at, frames = np.linspace(0, len(loudness) - 1, samples), np.arange(len(loudness))
    loudness, octave, noisiness = (
        np.interp(at, frames, signal.medfilt(course, 5)) for course in (loudness, octave, noisiness)
    )
    bend = rng.uniform(0.2, 0.6) * np.clip(octave - np.median(octave), -2, 2)
    phase = 2 * np.pi * np.cumsum(rng.uniform(100, 300) * 2**bend) / RATE
    tone = sum(np.sin(number * phase) / number for number in range(1, 17))
    noise = rng.standard_normal(samples)
    breathy = np.clip(noisiness**0.5 * rng.uniform(0.7, 1.3), 0, 1)
    vowel = np.clip(2 ** np.median(octave) * rng.uniform(0.7, 1.4), 300, 3000)
    band = signal.butter(1, [vowel * 0.7, vowel * 1.4], "bandpass", fs=RATE, output="sos")
    voice = loudness ** rng.uniform(0.7, 1.2) * signal.sosfilt(band, (1 - breathy) * tone + breathy * noise)
    return 0.5 * voice / (np.abs(voice).max() + 1e-9)


@torch.inference_mode()
def embed_sounds(recordings: pd.DataFrame, data: Path, weights: Path) -> tuple[Tensor, Tensor]:
    """Embeddings of recordings (recordings, dim) and imitations (recordings, voices, dim) by mn04."""
    model = load_audio_model("mn04.as", weights).eval()
    microphones = DeviceImpulseResponses(
        data / "micirp" / "audio", RATE, max_duration=0.1, level="keep_rms", delay="peak_at_start"
    )
    generator, always = torch.Generator().manual_seed(0), torch.ones(VOICES, dtype=torch.bool)
    rows = []
    for number, path in enumerate(recordings["path"]):
        waveform = read_audio(path, RATE)[: SECONDS * RATE]
        voices = [imitate(waveform, np.random.default_rng((number, voice))) for voice in range(VOICES)]
        batch = torch.stack([_padded(sound) for sound in (waveform, *voices)])
        batch[1:] = microphones(batch[1:], always, 1.0, generator)
        rows.append(model(batch).embedding)
    embeddings = torch.stack(rows)
    return embeddings[:, 0], embeddings[:, 1:]


def _padded(waveform: Array) -> Tensor:
    sound = torch.from_numpy(np.asarray(waveform, dtype=np.float32))
    return functional.pad(sound, (0, SECONDS * RATE - len(sound)))


class Vectors(FrontEnd):
    """Embeddings in place of waveforms: (batch, dim) to (batch, 1, dim, 1)."""

    sample_rate = RATE

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform[:, None, :, None]


class Adapter(nn.Module):
    """Embeddings and what two layers add to them; nothing at the start."""

    def __init__(self, dim: int, hidden: int = 512):
        super().__init__()
        last = nn.Linear(hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), last)

    def forward(self, spectrogram: Tensor) -> ModelOutput:
        vectors = spectrogram[:, 0, :, 0]
        return ModelOutput(None, vectors + self.layers(vectors))


class OracleModule(ImitationModule):
    """All recordings of the label as positives: the most that labels can give."""

    def compute_loss(self, voice: Tensor, recording: Tensor, label: Tensor) -> Tensor:
        imitations, recordings = self.model.voice.network(voice), self.model.recording.network(recording)
        temperature = self.settings.training.temperature
        return contrastive_loss(imitations.embedding, recordings.embedding, label, temperature)


class ImitationTrial:
    """Trainings and tests of one seed, on recordings drawn by it."""

    def __init__(self, recordings: pd.DataFrame, embeddings: tuple[Tensor, Tensor], work: Path, seed: int):
        self.recordings, self.imitations = embeddings
        self.labels = torch.from_numpy(pd.factorize(recordings["label"])[0])
        self.work, self.seed = work, seed
        rng = np.random.default_rng((seed, 1))
        drawn = [rng.permutation(np.flatnonzero(self.labels == label)) for label in self.labels.unique()]
        self.trained = {count: np.concatenate([rows[:count] for rows in drawn]) for count in (1, TRAINED)}
        self.tested = np.concatenate([rows[TRAINED : TRAINED + TESTED] for rows in drawn])
        self.mean = [side[self.trained[TRAINED]].flatten(0, -2).mean(dim=0) for side in embeddings]

    def train_and_test(self, per_label: int, mask: bool, oracle: bool) -> Figures:
        """Train on `per_label` recordings of each label and test the last epoch."""
        return self.test(self.train(per_label, mask, oracle))

    def train(self, per_label: int, mask: bool, oracle: bool) -> ImitationModel:
        """As published, without augmentation and with every batch a step; 15 epochs of 48 steps."""
        rows = np.repeat(self.trained[per_label], VOICES)
        voices = np.tile(np.arange(VOICES), len(self.trained[per_label]))
        imitations = self.imitations[rows, voices] - self.mean[1]
        columns = imitations, self.recordings[rows] - self.mean[0], self.labels[rows]
        pairs: list[dict[str, Any]] = [
            {"imitation": imitation, "recording": recording, "label": label}
            for imitation, recording, label in zip(*columns)
        ]
        settings = self.settings(mask)
        seed_all(self.seed)
        model = ImitationModel(AudioModel(Vectors(), Adapter(self.recordings.shape[1])))
        loader = make_loader(pairs * (TRAINED // per_label), settings.training.batch_size, shuffle_seed=self.seed)
        folder = self.work / f"imitation_{self.seed}_{per_label}_{mask}_{oracle}"
        shutil.rmtree(folder, ignore_errors=True)
        trainer = make_trainer(settings.trainer, folder, self.seed, monitor=None)
        fit(trainer, (OracleModule if oracle else ImitationModule)(model, settings, None), loader, None)
        shutil.rmtree(folder)
        return model.eval()

    def settings(self, mask: bool) -> ImitationSettings:
        """Settings of a training."""
        return ImitationSettings(
            kind="imitation",
            seed=self.seed,
            data=ImitationData(root=self.work),
            augmentation=ImitationAugmentation(mixstyle_probability=0, frequency_mask=0, time_mask=0),
            training=ImitationTraining(mask_same_label=mask, optim=AdamRamps()),
            trainer=TrainerSettings(epochs=15, accelerator="cpu", measure_energy=False),
            tested="last",
        )

    @torch.inference_mode()
    def test(self, model: ImitationModel | None) -> Figures:
        """Figures of a model, or (None) of the released embeddings."""
        items = self.recordings[self.tested] - self.mean[0]
        queries = (self.imitations[self.tested] - self.mean[1]).flatten(0, 1)
        if model is not None:
            queries, items = model.voice(queries).embedding, model.recording(items).embedding
        similarity = functional.normalize(queries, dim=1) @ functional.normalize(items, dim=1).mT
        target = torch.arange(len(items)).repeat_interleave(VOICES)
        labels = self.labels[self.tested]
        precision = average_precision(similarity, labels[target][:, None] == labels, None)
        rank = reciprocal_rank(similarity, target[:, None] == torch.arange(len(items)))
        groups = np.repeat(self.tested, VOICES).tolist()
        return {
            "class mAP": float(precision.mean()),
            "class mAP by group": [precision.numpy().round(4).tolist(), groups],
            "MRR": float(rank.mean()),
        }


UNTRAINED = "untrained"
ARMS = {"{}, no mask": (False, False), "{}, mask": (True, False), "{}, oracle": (False, True)}
LABELS = {1: "one recording a label", TRAINED: "six recordings a label"}


def main() -> None:
    """Run the trial and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/trials"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells, seeds = PairedCells(arguments.work / "imitation.jsonl", {}), range(arguments.seeds)
    recordings, cache = list_recordings(arguments.data), arguments.work / "imitation_embeddings.pt"
    if not cache.is_file():
        torch.save(embed_sounds(recordings, arguments.data, arguments.weights), cache)
    embeddings = torch.load(cache)
    for seed in seeds:
        trial = ImitationTrial(recordings, embeddings, arguments.work, seed)
        cells.compute(UNTRAINED, seed, partial(trial.test, None))
        for count, name in LABELS.items():
            for arm, options in ARMS.items():
                cells.compute(arm.format(name), seed, partial(trial.train_and_test, count, *options))
    for name in LABELS.values():
        arms = [UNTRAINED, *(arm.format(name) for arm in ARMS)]
        for metric in ("class mAP", "MRR"):
            cells.print_table("Real recordings, made-up imitations", arms, seeds, metric, arms[1])


if __name__ == "__main__":
    main()

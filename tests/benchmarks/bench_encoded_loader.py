"""Clips per second of `EncodedClips`, against opening the HDF5 file for every item, as the official loaders do.

The loader beside it opens the file with h5py in `__getitem__`, looks the row up, decodes to a float array, pads it and
returns it; the default collate function stacks the items. It decodes with libsndfile as we do, and, where the package
`av` is installed, also with PyAV as PaSST and EfficientAT do. One core, no workers.

    python -m tests.benchmarks.bench_encoded_loader [--clips 200] [--seconds 10] [--names 100000]
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from common.data.encoded_store import EncodedClips, encode_audio
from common.data.loading import make_loader

RATE, BATCH, PAIRS = 32_000, 20, 5


def decode_with_libsndfile(encoded: bytes) -> np.ndarray:
    """(samples,)."""
    return soundfile.read(io.BytesIO(encoded), dtype="float32")[0]


def decode_with_pyav(encoded: bytes) -> np.ndarray:
    """(samples,), frame by frame, as the official decode_mp3."""
    import av

    container = av.open(io.BytesIO(encoded))
    stream = next(stream for stream in container.streams if stream.type == "audio")
    frames = [frame.to_ndarray().reshape(-1) for packet in container.demux(stream) for frame in packet.decode()]
    return np.concatenate(frames)


class OpenedPerItem(Dataset):
    """The file is opened for every item."""

    def __init__(self, path: Path, count: int, samples: int, decode: Callable[[bytes], np.ndarray]):
        self.path, self.count, self.samples, self.decode = path, count, samples, decode

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str, np.ndarray]:
        with h5py.File(self.path, "r") as file:
            name = file["audio_name"][index].decode()
            waveform = self.decode(file["mp3"][index].tobytes())
            target = np.unpackbits(file["target"][index], axis=-1, count=527)
        padded = np.zeros(self.samples, dtype=np.float32)
        padded[: len(waveform)] = waveform[: self.samples]
        return torch.from_numpy(padded), name, target


def write_file(path: Path, clips: int, seconds: float, names: int) -> None:
    """A file of `names` clips of which the first `clips` differ; the others share one short recording."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array([f"Y{number:011d}.mp3".encode() for number in range(names)])
        file["target"] = random.integers(0, 256, (names, 66), dtype=np.uint8)
        rows = file.create_dataset("mp3", (names,), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        for number in range(clips):
            noise = np.convolve(random.standard_normal(round(seconds * RATE)), np.ones(8) / 8, "same")
            rows[number] = np.frombuffer(encode_audio((0.1 * noise).astype(np.float32), RATE), dtype=np.uint8)


def main() -> None:
    """Measure in pairs, one way after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--names", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clips.hdf"
        write_file(path, options.clips, options.seconds, options.names)
        ours = EncodedClips([path], RATE, options.seconds, [f"Y{n:011d}" for n in range(options.clips)])
        samples = ours.num_samples or 0
        loaders = {"ours": make_loader(ours, BATCH)}
        for name, decode in (
            ("opened per item, libsndfile", decode_with_libsndfile),
            ("opened per item, PyAV", decode_with_pyav),
        ):
            if decode is decode_with_pyav and find_spec("av") is None:
                continue
            theirs = OpenedPerItem(path, options.clips, samples, decode)
            assert torch.allclose(ours[3]["waveform"], theirs[3][0], atol=1e-3)
            loaders[name] = DataLoader(theirs, BATCH)
        seconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(PAIRS):
            for name, loader in loaders.items():
                begin = time.process_time()
                for _batch in loader:
                    pass
                seconds[name].append(time.process_time() - begin)
        decoding = []
        for index in range(options.clips):
            encoded = ours.encoded(index).tobytes()
            begin = time.process_time()
            soundfile.read(io.BytesIO(encoded), dtype="float32")
            decoding.append(time.process_time() - begin)
    print(f"mp3 of {options.seconds:g} s at {RATE} Hz, {options.clips} clips, CPU time of one core, median of {PAIRS}")
    for name, values in seconds.items():
        ratios = [slow / fast for fast, slow in zip(seconds["ours"], values)]
        spread = f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"  {name:<28} {options.clips / statistics.median(values):8.1f} clips/s  {'' if name == 'ours' else spread}"
        )
    print(f"  {'decoding alone':<28} {options.clips / sum(decoding):8.1f} clips/s")


if __name__ == "__main__":
    main()

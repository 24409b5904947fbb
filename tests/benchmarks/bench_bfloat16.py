"""Inference in bfloat16 against float32: time of a 10-s clip, and what changes in the outputs.

    python -m tests.benchmarks.bench_bfloat16 [--pairs 5] [--clips DIR --weights mn04_as.pt]
    python -m tests.benchmarks.bench_bfloat16 --golden

One thread, processor time, both precisions in turns; networks with random weights. With --clips, the tags and
embeddings of mn04.as on each audio file of a folder: decisions are tags above 0.5. With --golden, the largest error of
either precision on two clips of the official code (tests/golden), over the largest official value.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity

from common.data.audio import list_audio, read_audio
from common.inference.prepare import computing_in, prepare_for_inference
from common.models.audio_model import AudioModel
from common.output import print_table
from common.registry import create_audio_model, load_audio_model, load_released_state_dict
from tests.support.golden_case import GoldenCase

MODELS = {"mn10": (1, 4), "dymn04": (1,), "passt_s_swa": (1,), "atst_frame": (1,), "beats": (1,)}
"""Names to numbers of clips in a batch."""
GOLDEN = ("mn04", "mn10", "dymn10", "passt_s_swa", "atst_frame", "fpasst", "beats")


def seconds(model: AudioModel, waveforms: torch.Tensor, pairs: int) -> dict[str, float]:
    """Median processor time by precision."""
    times: dict[str, list[float]] = {"float32": [], "bf16": []}
    for pair in range(pairs + 1):
        for precision, found in times.items():
            started = time.process_time()
            with torch.inference_mode(), computing_in(precision):
                model(waveforms)
            if pair:  # the first is to warm up
                found.append(time.process_time() - started)
    return {precision: statistics.median(found) for precision, found in times.items()}


def show_speed(pairs: int) -> None:
    """A row for each model and batch."""
    rows = []
    for name, batches in MODELS.items():
        torch.manual_seed(0)
        model = prepare_for_inference(create_audio_model(name))
        for batch in batches:
            found = seconds(model, 0.1 * torch.randn(batch, 10 * model.sample_rate), pairs)
            shown = {precision: f"{1000 * value:.0f} ms" for precision, value in found.items()}
            rows.append({"model": name, "clips": batch, **shown, "ratio": f"{found['float32'] / found['bf16']:.2f}"})
    print_table(rows, title=f"10-s clips, medians of {pairs} pairs")


def show_tags(folder: Path, weights: Path | None) -> None:
    """What changes in bfloat16."""
    model = prepare_for_inference(load_audio_model("mn04.as", weights))
    files = list_audio(folder)
    scores, embeddings = [], []
    with torch.inference_mode():
        for precision in ("float32", "bf16"):
            with computing_in(precision):
                outputs = [model(torch.from_numpy(read_audio(path, model.sample_rate))[None]) for path in files]
            scores.append(torch.cat([output.logits for output in outputs]).float().sigmoid())
            embeddings.append(torch.cat([output.embedding for output in outputs]).float())
    exact, rough = scores
    print(f"{len(files)} clips, {int((exact > 0.5).sum())} tags above 0.5 of {exact.numel():,}")
    print(f"most probable tag changes: {int((exact.argmax(1) != rough.argmax(1)).sum())}")
    print(f"decisions at 0.5 change: {int(((exact > 0.5) != (rough > 0.5)).sum())}")
    print(f"least cosine of the embeddings: {float(cosine_similarity(*embeddings).min()):.4f}")


def show_errors() -> None:
    """A row for each official output and network."""
    rows = []
    for name in GOLDEN:
        case, model = GoldenCase(name), create_audio_model(name)
        load_released_state_dict(model, case.state_dict())
        prepare_for_inference(model)
        found = {}
        for precision in ("float32", "bf16"):
            with torch.inference_mode(), computing_in(precision):
                output = model(case.waveform())
            if output.frames is None:
                found[precision] = {"embedding": output.embedding, "logits": output.logits}
            else:
                assert output.frame_logits is not None
                found[precision] = {"pooled": output.frames, "strong_logits": output.frame_logits.mT}
        for part in found["bf16"]:
            official = case.expected(part)
            errors = {
                precision: (case.thinned(part, outputs[part]).float() - official).abs().max() / official.abs().max()
                for precision, outputs in found.items()
            }
            rows.append({"model": name, "output": part, **{key: f"{value:.1e}" for key, value in errors.items()}})
    print_table(rows, title="Largest error over the largest official value, two clips")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clips", type=Path, help="folder of audio files")
    parser.add_argument("--weights", type=Path, help="released weights; by default from the cache or a download")
    parser.add_argument("--golden", action="store_true", help="errors on the official outputs alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.golden:
        show_errors()
        return
    show_speed(arguments.pairs)
    if arguments.clips:
        show_tags(arguments.clips, arguments.weights)


if __name__ == "__main__":
    main()

"""Estimated correspondences: similarities of clips and captions by teachers, found by name, never by position."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.data.keyed_outputs import KeyedOutputs, OutputWriter
from common.data.transfer import to_device
from common.errors import UserError
from common.models.text import TextEncoder, normalize_caption
from retrieval.losses import estimated_correspondences

KIND = "embeddings"


def write_teacher(
    folder: Path, clips: Sequence[str], audio: Tensor, captions: Sequence[str], text: Tensor, caption_rule: str
) -> None:
    """Embeddings of one teacher in its own space: clips.h5 and captions.h5.

    Args:
        clips: key of each clip (dataset/split/file_name).
        audio: (clips, dim).
        captions: each distinct caption as written in the data set.
        text: (captions, dim).
        caption_rule: how captions were normalised before they were encoded.
    """
    for path, names, vectors in (("clips.h5", clips, audio), ("captions.h5", captions, text)):
        attributes = {"caption_rule": caption_rule}
        with OutputWriter(folder / path, names, kind=KIND, dtype="float32", attributes=attributes, key=str) as writer:
            writer.write(names, vectors)


class EstimatedCorrespondences:
    """Mean similarity of several teachers for the clips and captions of a batch.

    Args:
        teachers: folders that `write_teacher` filled, at least one.
        clips: keys of the clips of the training manifest, in its order.
        caption_rule: rule of the student; a teacher with another rule is refused.

    Raises:
        UserError: if a teacher is missing or damaged, lacks clips or captions, or used another caption rule.
    """

    def __init__(self, teachers: Sequence[Path], clips: Sequence[str], captions: Sequence[str], caption_rule: str):
        if not teachers:
            raise UserError("No teacher is named; set correspondences.teachers or correspondences.text_similarity.")
        self.captions = list(dict.fromkeys(captions))
        self._row = {caption: row for row, caption in enumerate(self.captions)}
        self._embeddings: list[tuple[Tensor, Tensor]] = []
        for folder in teachers:
            audio, text = (KeyedOutputs(folder / name, KIND, key=str) for name in ("clips.h5", "captions.h5"))
            if (rule := audio.attributes["caption_rule"]) != caption_rule:
                raise UserError(
                    f"Teacher {folder.name} read captions by the rule {rule}, the student reads them by "
                    f"{caption_rule}; use one caption_rule."
                )
            of_clips, of_captions = audio.read(audio.rows(clips)), text.read(text.rows(self.captions))
            self._embeddings.append((torch.from_numpy(of_clips), torch.from_numpy(of_captions)))

    def __call__(
        self, clips: Sequence[int] | Tensor, captions: Sequence[str], device: torch.device | str = "cpu"
    ) -> Tensor:
        """Rows of the manifest, on the CPU, and captions to (clips, captions) mean cosine, on `device`."""
        known, rows = torch.as_tensor(clips), torch.tensor([self._row[caption] for caption in captions])
        vectors = [(audio[known], text[rows]) for audio, text in self._embeddings]
        of_clips, of_captions = zip(*to_device(vectors, torch.device(device)), strict=True)
        return estimated_correspondences(of_clips, of_captions)

    def entropy(self, temperature: float, sample: int = 512, seed: int = 0) -> float:
        """Mean entropy (bits) of a clip's target over `sample` captions; near 0: teachers see one fitting caption."""
        rng = np.random.default_rng(seed)
        clips = torch.from_numpy(rng.permutation(len(self._embeddings[0][0]))[:sample])
        captions = [self.captions[i] for i in rng.permutation(len(self.captions))[:sample]]
        target = (self(clips, captions) / temperature).softmax(dim=1)
        return float(-(target * target.clamp_min(1e-12).log2()).sum(dim=1).mean())


def embed_by_text(encoder: TextEncoder, captions: Sequence[Sequence[str]]) -> tuple[Tensor, list[str], Tensor]:
    """Embeddings of a teacher without audio: the vector of a clip is the mean over its own captions.

    "Text-based Audio Retrieval by Learning from Similarities between Audio Captions" (2024) shows that such
    similarities agree with human judgement.

    Returns:
        Vectors of the clips, distinct captions, and their vectors.
    """
    distinct = list(dict.fromkeys(caption for group in captions for caption in group))
    row = {caption: i for i, caption in enumerate(distinct)}
    text = functional.normalize(encoder.encode([normalize_caption(c, encoder.caption_rule) for c in distinct]), dim=1)
    audio = torch.stack([text[[row[caption] for caption in group]].mean(dim=0) for group in captions])
    return audio, distinct, text

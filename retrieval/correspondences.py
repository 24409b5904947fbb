"""What teachers say about which clips fit which captions: stored by clip and caption, never by position."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import UserError
from common.files import atomic_path
from common.models.text import TextEncoder, normalize_caption


@dataclass
class Teacher:
    """Embeddings of one teacher in its own space; audio and text are compared by cosine.

    name: said in errors.
    caption_rule: how captions were normalised before they were encoded.
    clips: key of each clip (dataset/split/file_name).
    audio: (clips, dim).
    captions: each distinct caption as written in the data set.
    text: (captions, dim).
    """

    name: str
    caption_rule: str
    clips: list[str]
    audio: Tensor
    captions: list[str]
    text: Tensor

    def write(self, path: Path) -> None:
        """To one .npz file, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                name=self.name,
                caption_rule=self.caption_rule,
                clips=np.array(self.clips, dtype=np.str_),
                audio=self.audio.numpy(),
                captions=np.array(self.captions, dtype=np.str_),
                text=self.text.numpy(),
            )

    @classmethod
    def read(cls, path: Path) -> "Teacher":
        """From a file that `write` made.

        Raises:
            UserError: if the file is absent, cut off, of another kind, or holds numbers that are not finite.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {key: data[key] for key in ("name", "caption_rule", "clips", "audio", "captions", "text")}
        except FileNotFoundError:
            raise UserError(f"There are no teacher embeddings at {path}; run the stage correspondences.") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} does not hold teacher embeddings ({error}); redo the stage correspondences."
            ) from error
        audio, text = torch.from_numpy(arrays["audio"]), torch.from_numpy(arrays["text"])
        if not (torch.isfinite(audio).all() and torch.isfinite(text).all()):
            raise UserError(f"{path} holds embeddings that are not finite; train that teacher again.")
        return cls(
            str(arrays["name"]), str(arrays["caption_rule"]), arrays["clips"].tolist(), audio,
            arrays["captions"].tolist(), text,
        )  # fmt: skip


class EstimatedCorrespondences:
    """Mean similarity of several teachers for the clips and captions of a batch.

    Args:
        teachers: at least one.
        clips: keys of the clips of the training manifest, in its order.
        captions: all training captions.
        caption_rule: of the student; a teacher that saw captions in another form is refused.

    Raises:
        UserError: if a teacher lacks clips or captions, has some twice, or used another caption rule.
    """

    def __init__(self, teachers: Sequence[Teacher], clips: Sequence[str], captions: Sequence[str], caption_rule: str):
        if not teachers:
            raise UserError("No teacher is named; set correspondences.teachers or correspondences.text_similarity.")
        self._audio, self._text = [], []
        self.caption_row = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        for teacher in teachers:
            if teacher.caption_rule != caption_rule:
                raise UserError(
                    f"Teacher {teacher.name} read captions by the rule {teacher.caption_rule}, the student reads them "
                    f"by {caption_rule}; use one caption_rule."
                )
            clip_rows = _rows(teacher.clips, clips, f"teacher {teacher.name}", "clips")
            text_rows = _rows(teacher.captions, list(self.caption_row), f"teacher {teacher.name}", "captions")
            self._audio.append(functional.normalize(teacher.audio.float(), dim=1)[clip_rows])
            self._text.append(functional.normalize(teacher.text.float(), dim=1)[text_rows])

    def __call__(self, clips: Tensor, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """(clips,) rows of the manifest and captions to (clips, captions) mean cosine, on `device`."""
        rows = torch.tensor([self.caption_row[caption] for caption in captions])
        clips = clips.cpu()
        total = torch.zeros(len(clips), len(rows), device=device)
        for audio, text in zip(self._audio, self._text, strict=True):
            total += audio[clips].to(device) @ text[rows].to(device).mT
        return total / len(self._audio)

    def entropy(self, temperature: float, sample: int = 512, seed: int = 0) -> float:
        """Mean entropy (bits) of a clip's target over `sample` captions; near 0: teachers see one fitting caption."""
        rng = np.random.default_rng(seed)
        clips = torch.from_numpy(rng.permutation(len(self._audio[0]))[:sample])
        captions = [list(self.caption_row)[i] for i in rng.permutation(len(self.caption_row))[:sample]]
        target = (self(clips, captions) / temperature).softmax(dim=1)
        return float(-(target * target.clamp_min(1e-12).log2()).sum(dim=1).mean())


def text_teacher(
    encoder: TextEncoder, clips: Sequence[str], captions: Sequence[Sequence[str]], caption_rule: str
) -> Teacher:
    """A teacher that has never heard a clip: its "audio" is the mean of the vectors of the clip's own captions.

    "Text-based Audio Retrieval by Learning from Similarities between Audio Captions" (2024) shows that such
    similarities agree with people's judgement.
    """
    distinct = list(dict.fromkeys(caption for group in captions for caption in group))
    row = {caption: i for i, caption in enumerate(distinct)}
    text = functional.normalize(encoder.encode([normalize_caption(c, encoder.caption_rule) for c in distinct]), dim=1)
    audio = torch.stack([text[[row[caption] for caption in group]].mean(dim=0) for group in captions])
    return Teacher("text similarity", caption_rule, list(clips), audio, distinct, text)


def _rows(have: Sequence[str], want: Sequence[str], who: str, what: str) -> Tensor:
    row = {name: i for i, name in enumerate(have)}
    if len(row) != len(have):
        raise UserError(f"{who} has {len(have) - len(row)} {what} twice; make its embeddings again.")
    absent = [name for name in want if name not in row]
    if absent:
        raise UserError(
            f"{who} was made from other {what}: it lacks {len(absent)} of {len(want)}, the first is {absent[0]!r}. "
            "Redo the stage correspondences."
        )
    return torch.tensor([row[name] for name in want])

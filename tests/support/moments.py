"""The golden case of QD-DETR and its inputs."""

import numpy as np
import torch

from tests.support.golden_case import NETWORKS, GoldenCase, drawn_tensor

QD_DETR = GoldenCase("qd_detr", NETWORKS)


def vectors(side: str, lengths: list[int], size: int = 768) -> list[torch.Tensor]:
    """Rows of unit length, of `lengths`; side is "audio" or "text"."""
    drawn = [drawn_tensor(f"qd_detr/{side}/{number}", (length, size)) for number, length in enumerate(lengths)]
    return [torch.from_numpy(one / np.linalg.norm(one, axis=1, keepdims=True)) for one in drawn]

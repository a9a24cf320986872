"""Finds the nearest words of words in an embedding table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

NEAREST = 15  # as TinyBERT's augmentation (arXiv 1909.10351)
_BLOCK = 1 << 22  # scores in memory at once


@torch.no_grad()
def nearest_words(
    table: Tensor, whole: np.ndarray, used: Iterable[int], count: int = NEAREST
) -> np.ndarray:
    """Return the nearest words of the words of a text, by the cosine of their embeddings.

    The scores are computed in blocks of at most 16 MiB in float32, on the device of the table.

    Args:
        table: embeddings, `(rows, width)`; its first rows are those of the vocabulary.
        whole: boolean `(vocabulary,)`, true for the tokens that are words.
        used: ids of the tokens in the text; those that are no words are passed over.
        count: number of neighbours of a word, at least 1.

    Returns:
        Ids `(vocabulary, n)`, int32, where n is `count`, or the number of all other words if there
        are fewer. The row of a token without neighbours is -1.
    """
    number = min(count, max(int(whole.sum()) - 1, 0))
    near = np.full((len(whole), number), -1, dtype=np.int32)
    words = [token for token in sorted(set(used)) if token < len(whole) and whole[token]]
    if not number or not words:
        return near
    rows = table.detach()[: len(whole)]
    norms = torch.linalg.vector_norm(rows.float(), dim=1).clamp(min=1e-12)
    barred = torch.from_numpy(~whole).to(rows.device)
    size = max(1, _BLOCK // len(rows))
    for block in torch.tensor(words, device=rows.device).split(size):
        scores = (rows[block] @ rows.T).float().div_(norms)
        scores[:, barred] = -torch.inf
        scores[torch.arange(len(block)), block] = -torch.inf
        near[block.cpu().numpy()] = scores.topk(number, dim=1).indices.cpu().numpy()
    return near

"""Targets of models that return embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .target import Target

__all__ = ["Similarity"]


@dataclass(frozen=True, eq=False)
class Similarity(Target):
    """Cosine similarity of the image's embedding ``[D]`` to ``reference`` ``[D]``: another image's, or a text's (CLIP).

    An embedding with more dimensions is flattened. With ``Field`` it applies to one field of the output:
    ``Field("image_embeds", Similarity(text))``.
    """

    reference: Any

    def __call__(self, scores: Tensor) -> Tensor:
        embedding = scores.reshape(-1)
        reference = torch.as_tensor(self.reference).detach().to(embedding).reshape(-1)
        if reference.shape != embedding.shape:
            raise ValueError(f"reference must be an embedding of {len(embedding)} numbers, got {len(reference)}")
        return F.cosine_similarity(embedding, reference, dim=0)

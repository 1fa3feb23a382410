"""Infidelity: whether heat tells how far the score falls when squares are taken away (Yeh 2019, https://arxiv.org/abs/1901.09392)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..methods.scoring import counted
from ..model.inputs import Images
from ..targets import ClassNames, Targets
from .heat import Heat
from .scores import Score, Scored

__all__ = ["infidelity", "infidelity_of"]


def infidelity(
    model: nn.Module,
    images: Images,
    heat: Heat,
    targets: Targets = None,
    *,
    samples: int = 50,
    side: float = 0.25,
    scaled: bool = True,
    seed: int | None = 0,
    score: Score = "output",
    batch_size: int | None = None,
    class_names: ClassNames | None = None,
) -> Tensor:
    """The mean of ``(sum(I * heat) - (f(x) - f(x - I)))^2`` over squares, ``[N]`` or ``[N, K]`` (equation 1). Less is better.

    I is the image inside a square at a random place and 0 elsewhere, so that ``x - I`` has 0 there: the paper's square removal.
    The heat counts for every channel alike.

    Args:
        model: the model that was explained.
        images: ``[N, C, H, W]``, as it takes them.
        heat: an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]`` or ``[N, K, H, W]``.
        targets: as explainers take them; None: the explanation's own, or each image's top class.
        samples: squares per image.
        side: of a square, as a share of the image's shorter side.
        scaled: multiplies the heat by the number that makes its infidelity least, since heat in [0, 1] is in no unit of
            scores, as captum's ``normalize``; what is left is how wrong the heat's proportions are.
        seed: of the squares' places; None: from PyTorch's global generator.
        score: ``"output"`` or ``"probability"``.
        batch_size: changed images per pass; None: as many as fit.
        class_names: for targets by name.

    Returns:
        In squared units of the score; NaN where the heat is not finite.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for what does not fit.
    """
    found = Scored(model, images, heat, targets, score=score, batch_size=batch_size, class_names=class_names)
    return infidelity_of(found, samples, side, scaled, seed)


def infidelity_of(found: Scored, samples: int, side: float, scaled: bool, seed: int | None) -> Tensor:
    """Of what was found."""
    counted(samples, "samples")
    if not 0 < side <= 1:
        raise ValueError(f"side must be a share of the image's shorter side, above 0 and up to 1, got {side!r}")
    if found.images.ndim != 4:
        raise ValueError(f"infidelity needs images [N, C, H, W], got {list(found.images.shape)}")
    squares = _squares(found.images, samples, side, seed)  # [S, N, H, W]
    P = found.pairs
    pairs = torch.arange(P, device=found.images.device).repeat(samples)
    drawn = torch.arange(samples, device=found.images.device).repeat_interleave(P)

    def without(part: Tensor) -> Tensor:
        which = found.image_of[pairs[part]]
        return found.images[which].masked_fill(squares[drawn[part], which].unsqueeze(1), 0)

    falls = found.own - found.scores(pairs, without).view(samples, P)
    energy = found.heat * found.images.sum(1)[found.image_of].to(found.heat)  # [P, H, W]
    sums = torch.stack([(energy * square[found.image_of]).sum((-2, -1)) for square in squares]).to(falls)
    if scaled:
        squared = (sums * sums).mean(0)
        sums = sums * torch.where(squared > 0, (sums * falls).mean(0) / squared, 0)
    return found.shaped(((sums - falls) ** 2).mean(0))


def _squares(images: Tensor, samples: int, side: float, seed: int | None) -> Tensor:
    """Bool ``[S, N, H, W]``, a square at a random place in each."""
    N, _, H, W = images.shape
    length = max(1, round(side * min(H, W)))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    places = torch.rand(samples, N, 2, generator=generator)
    inside = []
    for axis, size in enumerate((H, W)):
        start = (places[..., axis] * (size - length + 1)).long().unsqueeze(-1)
        at = torch.arange(size)
        inside.append((at >= start) & (at < start + length))
    return (inside[0].unsqueeze(-1) & inside[1].unsqueeze(-2)).to(images.device)

"""The losses in plain PyTorch, one map at a time, as their formulas stand in the papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def maps_of(heat):
    """Each map, with the numbers of its image and its target."""
    if heat.ndim == 3:
        return [(image, None, heat[image]) for image in range(len(heat))]
    return [(image, k, heat[image, k]) for image in range(len(heat)) for k in range(heat.shape[1])]


def each(heat, formula):
    """``formula(map, image, target)`` of every map, in the heat's shape ``[N]`` or ``[N, K]``."""
    return torch.stack([formula(plane, image, k) for image, k, plane in maps_of(heat)]).reshape(heat.shape[:-2])


def energy_outside(heat, masks):
    def formula(plane, image, k):
        energy = plane.relu()
        return 1 - energy[masks[image] > 0].sum() / energy.sum()

    return each(heat, formula)


def right_for_the_right_reasons_heat(heat, masks):
    return each(heat, lambda plane, image, k: ((~masks[image]).to(plane) * plane).pow(2).sum() / plane.numel())


def guided_attention(heat, masks):
    return each(heat, lambda plane, image, k: F.mse_loss(plane, masks[image].to(plane)))


def heat_consistency(heat, other):
    """Of mirrored images, by the absolute difference."""

    def scaled(plane):
        return (plane - plane.min()) / (plane.max() - plane.min())

    return each(heat, lambda plane, image, k: F.l1_loss(scaled(plane).flip(1), scaled(_of(other, image, k))))


def distillation_l2(heat, teacher):
    return each(heat, lambda plane, image, k: F.mse_loss(plane, _of(teacher, image, k)))


def distillation_cosine(heat, teacher):
    return each(
        heat, lambda plane, image, k: 1 - F.cosine_similarity(plane.flatten(), _of(teacher, image, k).flatten(), 0)
    )


def sparsity(heat):
    return each(heat, lambda plane, image, k: plane.abs().sum() / plane.numel())


def total_variation(heat):
    def formula(plane, image, k):
        return (plane[1:] - plane[:-1]).abs().mean() + (plane[:, 1:] - plane[:, :-1]).abs().mean()

    return each(heat, formula)


def attention_mining(model, images, heat, targets, threshold=0.5, sharpness=10.0):
    def formula(plane, image, k):
        kept = 1 - 1 / (1 + torch.exp(-sharpness * (plane - threshold)))
        return model((kept * images[image])[None]).softmax(1)[0, _of(targets, image, k)]

    return each(heat, formula)


def right_for_the_right_reasons(model, images, masks):
    """One image at a time; its gradient by a pass of its own."""
    found = []
    for image, mask in zip(images, masks, strict=True):
        pixels = image[None].detach().requires_grad_()
        total = F.log_softmax(model(pixels), 1).sum()
        (slope,) = torch.autograd.grad(total, pixels, create_graph=True)
        found.append((slope * (~mask)).pow(2).sum())
    return torch.stack(found)


def area(plane, size):
    """``plane`` ``[h, w]`` at ``size``, by area: over a grid so fine that both sizes divide it."""
    fine = plane.repeat_interleave(size[0], 0).repeat_interleave(size[1], 1)
    return F.avg_pool2d(fine[None, None], plane.shape)[0, 0]


def _of(values, image, k):
    return values[image] if k is None else values[image, k]

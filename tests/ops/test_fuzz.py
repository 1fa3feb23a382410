"""Ops at random: dtypes, layouts, sizes, values that are not finite in some images, against formulas in numpy and fp64.

``CAMFAST_FUZZ_CALLS=1000000 pytest tests/ops/test_fuzz.py --hypothesis-seed=1`` makes a million calls, in some hours.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import FAMILY, LAYOUTS, arrange

from camfast import ops

CALLS = int(os.environ.get("CAMFAST_FUZZ_CALLS", "1500"))
EPS = np.finfo(np.float32).eps
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
BAD = [np.nan, np.inf, -np.inf]
Array = np.ndarray
quick = settings(
    max_examples=CALLS,
    deadline=None,
    database=None,
    derandomize="CAMFAST_FUZZ_CALLS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
few = settings(quick, max_examples=max(1, CALLS // 4))


# What is expected, a formula each, in fp64.


def resized(maps: Array, size: tuple[int, ...], corners: bool = False) -> Array:
    """Linear along each of the last axes."""
    for axis, out in zip(range(maps.ndim - len(size), maps.ndim), size, strict=True):
        n = maps.shape[axis]
        if n == out:
            continue
        i = np.arange(out)
        at = i * (n - 1) / max(out - 1, 1) if corners else (i + 0.5) * n / out - 0.5
        at = at.clip(0, n - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *(1,) * (maps.ndim - 1 - axis))
        maps = maps.take(low, axis) * (1 - share) + maps.take(np.minimum(low + 1, n - 1), axis) * share
    return maps


def min_max(maps: Array, rank: int, eps: float = 1e-7) -> Array:
    axes = tuple(range(maps.ndim - rank, maps.ndim))
    maps = maps - maps.min(axes, keepdims=True)
    return maps / (maps.max(axes, keepdims=True) + eps)


def heat(rule: str, A: Array, G: Array) -> tuple[Array, Array]:
    """The raw maps ``[N, K, *map]`` of activations ``[N, 1, C, *map]``, and the sums of their terms' magnitudes."""
    at = tuple(range(3, A.ndim))
    if rule in ("hires_cam", "layer_cam", "grad_cam_elementwise"):
        terms = (np.maximum(G, 0) if rule == "layer_cam" else G) * A
        terms = np.maximum(terms, 0) if rule == "grad_cam_elementwise" else terms
        return terms.sum(2), np.abs(terms).sum(2)
    total = A.sum(at, keepdims=True)
    if rule == "cam":
        w = large = G.reshape(*G.shape, *(1,) * len(at))
    elif rule == "grad_cam":
        w, large = G.mean(at, keepdims=True), np.abs(G).mean(at, keepdims=True)
    elif rule == "xgrad_cam":
        w, large = ((x * A).sum(at, keepdims=True) / (total + 1e-7) for x in (G, np.abs(G)))
    else:
        g = np.maximum(G, 0)
        w = large = (g**3 / (2 * g**2 + total * g**3 + 1e-6)).sum(at, keepdims=True)
    return (w * A).sum(2), np.abs(large * A).sum(2)


# Random calls


@st.composite
def shapes(draw: Any) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    longest = {1: 70, 2: 12, 3: 5}[rank]
    own = tuple(draw(st.lists(st.integers(1, longest), min_size=rank, max_size=rank)))
    size = draw(st.none() | st.tuples(*[st.integers(1, 3 * longest)] * rank))
    return {
        "own": own,
        "size": size,
        "N": draw(st.integers(1, 3)),
        "C": draw(st.integers(1, 40)),
        "K": draw(st.none() | st.integers(1, 3)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "seed": draw(st.integers(0, 2**31)),
    }


def spoilt(rng: np.random.Generator, x: Array) -> Array:
    """``x`` with a value that is not finite in about every third image; which images these are."""
    bad = rng.random(len(x)) < 0.3
    for n in np.flatnonzero(bad):
        x[n].reshape(-1)[rng.integers(x[n].size)] = BAD[rng.integers(3)]
    return bad


def given_to(x: Array, dtype: torch.dtype) -> tuple[torch.Tensor, Array]:
    """A tensor, and the very values it holds."""
    tensor = torch.from_numpy(x).to(dtype)
    return tensor, tensor.double().numpy()


def check(got: torch.Tensor, expected: Array, error: Array, known: Array) -> None:
    """Known maps agree within ``error``; the others are NaN throughout."""
    values = got.double().numpy()
    assert np.isnan(values[~known]).all()
    values, expected, error = values[known], expected[known], np.broadcast_to(error, expected.shape)[known]
    assert np.isfinite(values).all()
    assert (np.abs(values - expected) <= error).all(), np.max(np.abs(values - expected) - error)


@quick
@given(st.sampled_from(FAMILY), shapes(), st.booleans())
def test_family(rule: str, s: dict[str, Any], normalize: bool) -> None:
    rng, rank = np.random.default_rng(s["seed"]), len(s["own"])
    lead = (s["N"],) if s["K"] is None else (s["N"], s["K"])
    A = np.maximum(rng.standard_normal((s["N"], s["C"], *s["own"])), 0) + 0.01
    G = rng.standard_normal((*lead, s["C"]) if rule == "cam" else (*lead, s["C"], *s["own"]))
    bad = (spoilt(rng, A) if rng.random() < 0.3 else np.zeros(s["N"], bool)) | (
        spoilt(rng, G) if s["K"] is None and rng.random() < 0.3 else np.zeros(s["N"], bool)
    )
    a, A = given_to(A, s["dtype"])
    g, G = given_to(G, s["dtype"])
    got = getattr(ops, rule)(
        arrange(a, s["layout"], rank), g if rule == "cam" else arrange(g, s["layout"], rank), s["size"], normalize
    )
    size = s["own"] if s["size"] is None else s["size"]
    assert got.shape == (*lead, *size)
    with np.errstate(all="ignore"):
        raw, terms = heat(rule, A[:, None], G.reshape(s["N"], s["K"] or 1, *G.shape[len(lead) :]))
        axes = tuple(range(2, raw.ndim))
        slack = 64 * EPS * terms.max(axes, keepdims=True)
        got = got.reshape(raw.shape[:2] + size)
        known = np.broadcast_to(~bad[:, None], raw.shape[:2])
        if not normalize:
            check(got[torch.from_numpy(known)], resized(raw, size)[known], slack[known] + 1e-30, known[known])
            return
        raw = np.maximum(raw, 0)
        resized_raw = resized(raw, size)
        spread = np.ptp(resized_raw, axes, keepdims=True)
        check(
            got,
            min_max(resized(min_max(raw, rank), size), rank),
            1e-5 + np.minimum(1, 8 * slack / (spread + 1e-30)),
            known,
        )


@few
@given(shapes(), st.booleans(), st.booleans())
def test_resize_normalize(s: dict[str, Any], normalize: bool, relu: bool) -> None:
    rng, rank = np.random.default_rng(s["seed"]), len(s["own"])
    maps = rng.standard_normal((s["N"], *s["own"])) * 10 ** rng.uniform(-3, 3)
    if rng.random() < 0.2:
        maps[:] = maps.reshape(-1)[0]  # constant
    bad = spoilt(rng, maps)
    m, maps = given_to(maps, s["dtype"])
    got = ops.resize_normalize(m, s["own"] if s["size"] is None else s["size"], normalize, relu)
    size = s["own"] if s["size"] is None else s["size"]
    with np.errstate(all="ignore"):
        maps = np.maximum(maps, 0) if relu else maps
        axes = tuple(range(1, 1 + rank))
        slack = 16 * EPS * np.abs(maps).max(axes, keepdims=True)
        if normalize:
            constant = np.ptp(maps, axes, keepdims=True) == 0
            spread = np.ptp(resized(maps, size), axes, keepdims=True)
            error = np.where(constant, 0, 1e-5 + np.minimum(1, slack / (spread + 1e-30)))
            expected = np.where(constant, 0, min_max(resized(min_max(maps, rank), size), rank))
            check(got, expected, error, ~bad)
        else:
            good = torch.from_numpy(~bad)
            check(got[good], resized(maps, size)[~bad], slack[~bad] + 1e-30, np.ones(int(good.sum()), bool))


@few
@given(shapes(), st.booleans(), st.booleans(), st.integers(1, 4))
def test_mask_images(s: dict[str, Any], corners: bool, scale_first: bool, planes: int) -> None:
    rng, rank = np.random.default_rng(s["seed"]), len(s["own"])
    size, C = s["own"] if s["size"] is None else s["size"], min(s["C"], 6)
    maps, images = rng.standard_normal((s["N"] * C, *s["own"])), rng.standard_normal((s["N"], planes, *size))
    bad = spoilt(rng, maps)
    x, images = given_to(images, s["dtype"])
    m, maps = given_to(maps, torch.float64 if s["dtype"] == torch.float64 else torch.float32)
    got = ops.mask_images(arrange(x, s["layout"], rank), m.reshape(s["N"], C, *s["own"]), corners, scale_first)
    with np.errstate(all="ignore"):
        axes = tuple(range(1, 1 + rank))
        constant = np.ptp(maps, axes, keepdims=True) == 0
        spread = np.ptp(maps if scale_first else resized(maps, size, corners), axes, keepdims=True)
        masks = min_max(maps, rank, 1e-8) if scale_first else maps
        masks = resized(masks, size, corners)
        masks = np.where(constant, 0, masks if scale_first else min_max(masks, rank, 1e-8))
        expected = images.repeat(C, 0) * masks[:, None]
        unit = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(s["dtype"], 1e-5)
        error = (
            unit * 4 + np.minimum(1, 16 * EPS * np.abs(maps).max(axes, keepdims=True) / (spread + 1e-30))[:, None] * 5
        )
        check(got, expected, error, ~bad)


@few
@given(st.data())
def test_tile_maps_and_overlay(data: Any) -> None:
    draw = data.draw
    M, h, w, scale, pad = (draw(st.integers(1, top)) for top in (7, 9, 9, 3, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    values = rng.standard_normal((M, h, w))
    spoilt(rng, values)
    m, values = given_to(values, draw(st.sampled_from(DTYPES[:3])))
    columns = draw(st.none() | st.integers(1, 9))
    picture = ops.tile_maps(m, columns, pad, scale=scale, background=7).numpy()
    columns = int(np.ceil(np.sqrt(M))) if columns is None else columns
    expected = np.full((-(-M // columns) * (h * scale + pad) + pad, columns * (w * scale + pad) + pad), 7.0)
    for i, own in enumerate(values):
        finite = own[np.isfinite(own)]
        low, high = (finite.min(), finite.max()) if finite.size else (np.inf, -np.inf)
        with np.errstate(all="ignore"):
            span = high - low
            shade = np.where(own == np.inf, 255, 255 * (own - low) / span) if span > 0 else 0 * own
            shade = np.where(own == -np.inf, 0, shade)
            shade = np.where(np.isnan(own), 7, shade if span > 0 else np.zeros_like(own))
        top, left = i // columns * (h * scale + pad) + pad, i % columns * (w * scale + pad) + pad
        expected[top : top + h * scale, left : left + w * scale] = shade.repeat(scale, 0).repeat(scale, 1)
    assert picture.shape[:2] == expected.shape and (np.abs(picture[:, :, 0] - expected) <= 1).all()

    heatmap = rng.random((1, h, w)).astype(np.float32)
    heatmap[rng.random(heatmap.shape) < 0.05] = np.nan
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    frames = torch.from_numpy(rng.integers(0, 256, (1, *size, 3), dtype=np.uint8))
    drawn = ops.overlay(frames, torch.from_numpy(heatmap), "gray", 0.25).numpy().astype(float)
    level = np.floor(resized(heatmap.astype(float), size) * 255)[..., None]
    blended = np.where(np.isnan(level), frames, 0.75 * frames.numpy() + 0.25 * level)
    assert (np.abs(drawn - blended) <= 1).all()

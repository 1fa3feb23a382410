"""Pointing game, energy, overlap and boxes, against plain loops, and Quantus where it is installed."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import camfast
from camfast import metrics
from camfast.metrics.level_regions import regions_of


def heat_of(count=4, size=(20, 24), seed=0):
    coarse = torch.rand(count, 1, 5, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]


def mask_of(count=4, size=(20, 24)):
    mask = torch.zeros(count, *size, dtype=torch.bool)
    for n in range(count):
        mask[n, n : n + 9, 2 * n : 2 * n + 11] = True
    return mask


def test_pointing_game_by_hand():
    heat, masks = heat_of(), mask_of()
    at = [divmod(int(plane.argmax()), 24) for plane in heat]
    expected = [float(mask[place]) for mask, place in zip(masks, at, strict=True)]
    assert metrics.pointing_game(heat, masks).tolist() == expected and 0 < sum(expected) < 4
    near = [
        float((mask.nonzero() - torch.tensor(place)).pow(2).sum(1).min() <= 16)
        for mask, place in zip(masks, at, strict=True)
    ]
    assert metrics.pointing_game(heat, masks, tolerance=4).tolist() == near


def test_boxes_are_masks():
    heat = heat_of()
    boxes = torch.tensor([[2.0 * n, n, 2 * n + 11, n + 9] for n in range(4)])
    for metric in (metrics.pointing_game, metrics.energy_inside, metrics.iou):
        torch.testing.assert_close(metric(heat, boxes=boxes), metric(heat, mask_of()))
        torch.testing.assert_close(metric(heat, boxes=boxes * 10, box_size=(200, 240)), metric(heat, mask_of()))


def test_energy_and_overlap_by_hand():
    heat, masks = heat_of(), mask_of()
    torch.testing.assert_close(metrics.energy_inside(heat, masks), (heat * masks).sum((1, 2)) / heat.sum((1, 2)))
    hot = heat >= 0.7 * heat.amax((1, 2), keepdim=True)
    expected = (hot & masks).sum((1, 2)) / (hot | masks).sum((1, 2))
    torch.testing.assert_close(metrics.iou(heat, masks, threshold=0.7), expected)


def test_no_object_and_no_heat():
    heat, masks = heat_of(), mask_of()
    masks[1], heat[2, 3, 3], heat[3] = False, torch.nan, 0
    for metric, blank in ((metrics.pointing_game, 1.0), (metrics.energy_inside, 0.0), (metrics.iou, 0.0)):
        found = metric(heat, masks)
        assert found.isnan().tolist() == [False, True, True, False] and float(found[3]) == blank


def test_several_targets_and_explanations():
    heat, masks = heat_of(), mask_of()
    both = torch.stack([heat, heat.flip(2)], 1)
    for metric in (metrics.pointing_game, metrics.energy_inside, metrics.iou):
        found = metric(both, masks)
        torch.testing.assert_close(found, torch.stack([metric(heat, masks), metric(heat.flip(2), masks)], 1))
        result = camfast.Explanation(heat, torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), [], "grad_cam")
        torch.testing.assert_close(metric(result, masks), metric(heat, masks))


def test_quantus_says_the_same():
    quantus = pytest.importorskip("quantus")
    heat, masks = heat_of(), mask_of()
    pairs = ((quantus.PointingGame, metrics.pointing_game), (quantus.RelevanceMassAccuracy, metrics.energy_inside))
    for peer, metric in pairs:
        theirs = peer(disable_warnings=True).evaluate_batch(a_batch=heat.numpy(), s_batch=masks.numpy())
        torch.testing.assert_close(metric(heat, masks), torch.as_tensor(np.asarray(theirs, np.float32)))


def plain_box_accuracy(heat, box, level, every=False):
    """The overlap of one map's best box, by walking through its regions."""
    scaled = (heat - heat.min()) / (heat.max() - heat.min())
    hot = (scaled > level).tolist()
    seen, regions = set(), []
    for start in [(y, x) for y, row in enumerate(hot) for x, on in enumerate(row) if on]:
        if start in seen:
            continue
        region, waiting = [], deque([start])
        seen.add(start)
        while waiting:
            y, x = waiting.popleft()
            region.append((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                inside = 0 <= near[0] < len(hot) and 0 <= near[1] < len(hot[0])
                if inside and hot[near[0]][near[1]] and near not in seen:
                    seen.add(near)
                    waiting.append(near)
        regions.append(region)
    if not regions:
        return 0.0
    best = 0.0
    for region in regions if every else [max(regions, key=len)]:
        ys, xs = zip(*region, strict=True)
        found = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
        width = max(0, min(found[2], box[2]) - max(found[0], box[0]))
        height = max(0, min(found[3], box[3]) - max(found[1], box[1]))
        both = width * height
        area = (found[2] - found[0]) * (found[3] - found[1]) + (box[2] - box[0]) * (box[3] - box[1])
        best = max(best, both / (area - both))
    return best


@pytest.mark.parametrize("regions", ["largest", "all"])
def test_max_box_acc_by_walking(regions):
    generator = torch.Generator().manual_seed(5)
    heat = F.interpolate(torch.rand(4, 1, 9, 8, generator=generator), (18, 21), mode="bilinear")[:, 0]
    boxes = torch.tensor([[2.0, 3, 12, 14], [0, 0, 21, 18], [10, 4, 20, 12], [5, 5, 9, 9]])
    found = metrics.max_box_acc(heat, boxes, thresholds=12, regions=regions, deltas=(0.3, 0.5))
    for n in range(4):
        expected = [plain_box_accuracy(heat[n], boxes[n].tolist(), k / 12, regions == "all") for k in range(12)]
        torch.testing.assert_close(found.iou[n], torch.tensor(expected), rtol=0, atol=1e-5)
    accuracy = torch.stack([(found.iou >= delta).double().mean(0) for delta in (0.3, 0.5)])
    assert found.value == pytest.approx(float(accuracy.amax(1).mean())) and found.value > 0
    assert found.best in found.thresholds.tolist()


@pytest.mark.parametrize("kind", ["steps", "noise", "spiral", "flat", "row", "column", "one"])
def test_max_box_acc_of_hard_maps_by_walking(kind):
    generator = torch.Generator().manual_seed(6)
    noise = torch.rand(13, 15, generator=generator)
    spiral = torch.zeros(13, 15)  # one region, whose runs meet only at its far end
    for ring in range(0, 7, 2):
        spiral[ring : 13 - ring, ring : 15 - ring] = 0.9 - ring / 20
        spiral[ring + 1 : 12 - ring, ring + 1 : 14 - ring] = 0
        spiral[ring + 1, ring] = 0
        spiral[ring + 2, ring : ring + 2] = 0.4
    plane = {
        "steps": (noise * 4).floor(),
        "noise": noise,
        "spiral": spiral,
        "flat": torch.full((13, 15), 0.3),
        "row": noise[:1],
        "column": noise[:, :1],
        "one": noise[:1, :1],
    }[kind]
    box = torch.tensor([3.0, 2, 12, 9])
    for regions in ("largest", "all"):
        found = metrics.max_box_acc(plane[None], box[None], thresholds=10, regions=regions).iou[0]
        expected = [plain_box_accuracy(plane, box.tolist(), k / 10, regions == "all") for k in range(10)]
        if kind in ("flat", "one"):
            expected = [0.0] * 10  # no range, no region
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-6)


def test_regions_of_all_thresholds_cost_no_more_than_a_map():
    heat = F.interpolate(
        torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(7)), (224, 224), mode="bilinear"
    )
    above = (heat[0, 0] * 100).ceil().long().numpy()
    regions = regions_of(above, 100)
    hot = above[None] > np.arange(100)[:, None, None]
    assert (
        np.bincount(regions.levels, regions.sizes, 100).tolist() == hot.sum((1, 2)).tolist()
    )  # every position is in one
    runs = (np.diff(hot.astype(np.int8), axis=2, prepend=0) > 0).sum()
    assert runs < hot[0].size  # what the time grows with, for a map from a layer


def test_max_box_acc_leaves_out_what_has_no_box():
    heat = heat_of(3)
    heat[2] = torch.nan
    found = metrics.max_box_acc(heat, [[[2.0, 3, 12, 14], [0, 0, 5, 5]], None, [1.0, 1, 4, 4]], thresholds=5)
    assert found.iou.isnan().all(1).tolist() == [False, True, True] and 0 <= found.value <= 1


def test_wrong_arguments_are_said():
    heat, masks = heat_of(), mask_of()
    with pytest.raises(ValueError, match="expected masks or boxes, got neither"):
        metrics.pointing_game(heat)
    with pytest.raises(ValueError, match="tolerance must be a number of pixels from 0 on, got -1"):
        metrics.pointing_game(heat, masks, tolerance=-1)
    with pytest.raises(ValueError, match="threshold must be a share"):
        metrics.iou(heat, masks, threshold=0)
    with pytest.raises(ValueError, match=r"heat must be \[N, H, W\] or \[N, K, H, W\], got \[24\]"):
        metrics.iou(heat[0, 0], masks)
    with pytest.raises(ValueError, match="regions must be 'largest' or 'all', got 'first'"):
        metrics.max_box_acc(heat, masks, regions="first")
    with pytest.raises(ValueError, match="boxes must be one list an image, 4, got 2"):
        metrics.max_box_acc(heat, [None, None])

"""Where heat may lie: masks of any size, boxes, and images without either."""

from __future__ import annotations

import plain_losses as plain
import pytest
import torch

from camfast import losses
from camfast.losses.masks import resized_by_area

HEAT = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MANY = torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mask(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


@pytest.mark.parametrize("size", [(6, 5), (12, 10), (7, 9), (3, 2), (50, 31), (1, 1)])
def test_masks_are_resized_by_area(size):
    masks = mask(3, *size)
    inside, present = losses.inside_of(HEAT, masks)
    expected = torch.stack([plain.area(one.double(), (6, 5)) for one in masks])
    torch.testing.assert_close(inside, expected)
    assert present is None and inside.dtype == torch.float64
    torch.testing.assert_close(inside.mean((1, 2)), masks.double().mean((1, 2)))  # its area stays


def test_a_resize_by_area_is_pooling_where_sizes_divide():
    planes = torch.rand(2, 3, 12, 10)
    torch.testing.assert_close(resized_by_area(planes, (4, 5)), torch.nn.functional.avg_pool2d(planes, (3, 2)))
    assert resized_by_area(planes, (12, 10)) is planes


def test_masks_of_every_shape():
    masks = mask(3, 12, 10)
    expected, _ = losses.inside_of(HEAT, masks)
    for same in (masks[:, None], masks.float(), masks.to(torch.uint8) * 255, masks.long(), list(masks)):
        torch.testing.assert_close(losses.inside_of(HEAT, same)[0], expected)
    for same in (masks, masks[:, None], masks[:, None].expand(3, 2, 12, 10), list(masks)):
        inside, _ = losses.inside_of(MANY, same)
        torch.testing.assert_close(inside.expand(MANY.shape), expected[:, None].expand(MANY.shape))
    own = mask(3, 2, 12, 10)
    inside, _ = losses.inside_of(MANY, own)
    torch.testing.assert_close(inside[:, 1], losses.inside_of(HEAT, own[:, 1])[0])
    torch.testing.assert_close(losses.inside_of(MANY, list(own))[0], inside)
    soft, _ = losses.inside_of(HEAT, torch.full((3, 6, 5), 0.25))
    assert torch.equal(soft, torch.full_like(HEAT, 0.25))


def test_boxes_are_masks():
    boxes = torch.tensor([[1.0, 2, 4, 6], [0, 0, 5, 6], [2, 1, 3, 2]])
    drawn = torch.zeros(3, 6, 5, dtype=torch.bool)
    for plane, (x0, y0, x1, y1) in zip(drawn, boxes.long().tolist(), strict=True):
        plane[y0:y1, x0:x1] = True
    inside, present = losses.inside_of(HEAT, boxes=boxes)
    torch.testing.assert_close(inside, drawn.double())
    assert present.tolist() == [True] * 3
    torch.testing.assert_close(
        losses.energy_outside(HEAT.requires_grad_(), boxes=boxes), losses.energy_outside(HEAT, drawn)
    )
    HEAT.requires_grad_(False)
    # In pixels of the picture, of which the heat has one for each 10 x 10.
    coarse, _ = losses.inside_of(HEAT, boxes=boxes * 10, box_size=(60, 50))
    torch.testing.assert_close(coarse, inside)
    part, _ = losses.inside_of(HEAT, boxes=[[12.5, 20, 30, 45]] * 3, box_size=(60, 50))
    torch.testing.assert_close(part[0, :, 1], torch.tensor([0, 0, 0.75, 0.75, 0.375, 0], dtype=torch.float64))
    assert losses.inside_of(MANY, boxes=boxes)[0].shape == (3, 1, 6, 5)


def test_several_boxes_and_none():
    two = [[0, 0, 2, 2], [1, 1, 4, 3]]
    inside, present = losses.inside_of(HEAT, boxes=[torch.tensor(two), None, []])
    assert present.tolist() == [True, False, False] and not inside[1:].any()
    assert inside[0].sum() == 4 + 6 - 1
    as_tensor, _ = losses.inside_of(HEAT[:1], boxes=torch.tensor([two]))
    torch.testing.assert_close(as_tensor, inside[:1])
    beyond, _ = losses.inside_of(HEAT[:1], boxes=[[-5, -5, 100, 3]])
    assert beyond[0, :3].all() and not beyond[0, 3:].any()


@pytest.mark.parametrize(
    "loss", [losses.energy_outside, losses.right_for_the_right_reasons_heat, losses.guided_attention]
)
def test_images_without_annotation_count_nothing(loss):
    masks = mask(3, 6, 5)
    heat = HEAT.clone().requires_grad_()
    some = loss(heat, [masks[0], None, masks[2]])
    some.backward()
    assert not heat.grad[1].any() and heat.grad[0].any()
    with torch.no_grad():
        torch.testing.assert_close(some, loss(HEAT[[0, 2]], masks[[0, 2]]))
        weighted = loss(HEAT, [masks[0], None, masks[2]], weights=torch.tensor([1.0, 5.0, 3.0]))
        torch.testing.assert_close(weighted, loss(HEAT[[0, 2]], masks[[0, 2]], weights=torch.tensor([1.0, 3.0])))
        assert loss(HEAT, [None] * 3) == 0 and loss(HEAT, boxes=[None, [], None]) == 0
        boxed = loss(HEAT, boxes=[[0, 0, 2, 2], None, None], reduction="none")
        assert boxed[0] > 0 and not boxed[1:].any()
    none = loss(heat, [None] * 3)
    none.backward()  # a step whose images have no annotation at all
    assert heat.grad.isfinite().all()


def test_the_measure_is_nan_without_annotation():
    empty = mask(3, 6, 5)
    empty[1] = False
    share = losses.energy_inside(HEAT, empty)
    assert share[1].isnan() and not share[[0, 2]].isnan().any()
    assert losses.energy_inside(MANY, [None, empty[0], None]).isnan().tolist() == [[True] * 2, [False] * 2, [True] * 2]
    with torch.no_grad():
        torch.testing.assert_close(losses.energy_outside(HEAT, empty), 1 - share[[0, 2]].mean())


@pytest.mark.parametrize(
    ("heat", "options", "error", "message"),
    [
        (HEAT, {}, ValueError, "expected masks or boxes, got neither"),
        (HEAT, {"masks": mask(3, 6, 5), "boxes": torch.zeros(3, 4)}, ValueError, "expected masks or boxes, got both"),
        (HEAT, {"masks": mask(3, 6, 5), "box_size": (6, 5)}, ValueError, "box_size must come with boxes"),
        (
            HEAT,
            {"masks": mask(2, 6, 5)},
            ValueError,
            r"masks must be \[N, h, w\] for heat \[3, 6, 5\], got \[2, 6, 5\]",
        ),
        (
            HEAT,
            {"masks": mask(3, 2, 6, 5)},
            ValueError,
            r"masks must be \[N, h, w\] for heat \[3, 6, 5\], got \[3, 2, 6, 5\]",
        ),
        (MANY, {"masks": mask(3, 3, 6, 5)}, ValueError, r"\[N, K, h, w\] for heat \[3, 2, 6, 5\], got \[3, 3, 6, 5\]"),
        (HEAT, {"masks": [mask(6, 5)] * 2}, ValueError, "masks must be one an image, got 2 for 3 images"),
        (HEAT, {"masks": [mask(6, 5), "a", None]}, TypeError, "masks must be tensors, got str"),
        (HEAT, {"masks": "everywhere"}, TypeError, "masks must be a tensor or a list of tensors, got str"),
        (
            HEAT,
            {"masks": torch.full((3, 6, 5), 255.0)},
            ValueError,
            r"floating masks must lie in \[0, 1\], got 255 to 255",
        ),
        (
            HEAT,
            {"boxes": [[4, 0, 2, 2]] * 3},
            ValueError,
            r"with x0 < x1 and y0 < y1, got \[4.0, 0.0, 2.0, 2.0\] for image 0",
        ),
        (HEAT, {"boxes": [[0, 0, 2, 2]] * 2}, ValueError, "boxes must be one list an image, got 2 for 3 images"),
    ],
)
def test_annotation_that_does_not_fit(heat, options, error, message):
    with pytest.raises(error, match=message):
        losses.inside_of(heat, **options)

"""ops.preprocess: frames to a network's input, against torchvision, PyTorch and the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camfast import ops
from camfast.ops import reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255 / min(STD)  # one grey level, normalised
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
CASES = [  # frame, size, box
    ((1, 90, 160), (24, 24), None),
    ((2, 37, 53), (37, 53), None),
    ((1, 1, 1), (3, 4), None),
    ((3, 7, 301), (20, 5), None),
    ((1, 40, 31), (64, 100), None),
    ((1, 90, 160), (24, 24), (35.0, 0.0, 125.0, 90.0)),
    ((2, 33, 57), (16, 19), (3.3, 4.1, 40.2, 32.9)),
    ((1, 20, 30), (15, 15), (-10.0, -5.5, 40.0, 25.5)),
    ((1, 200, 5), (2, 2), None),
    ((0, 8, 8), (4, 4), None),
]


def noise(shape) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_equals_reference(case, dtype, device):
    shape, size, box = case
    frames = noise(shape)
    for channels_last in (False, True):
        got = ops.preprocess(frames.to(device), size, MEAN, STD, dtype, box=box, channels_last=channels_last)
        expected = reference.preprocess(frames, size, MEAN, STD, torch.float32, box)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert got.dtype == dtype and got.is_contiguous(memory_format=layout)
        torch.testing.assert_close(got.float().cpu(), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(1, 144, 176), (1, 272, 640), (2, 37, 53)], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (224, 200)], ids=str)
def test_equals_pytorch(shape, size, device):
    frames = noise(shape)
    images = F.interpolate(frames.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True) / 255
    expected = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for function in (ops.preprocess, reference.preprocess):
        got = function(frames.to(device), size, MEAN, STD).cpu()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_equals_torchvision(device):
    """A box is what a resize of the shorter side and a cut of the centre see."""
    v2 = pytest.importorskip("torchvision.transforms.v2")
    for height, width in [(272, 640), (150, 99), (30, 40)]:
        frame = noise((height, width))
        steps = [v2.Resize(64, antialias=True), v2.CenterCrop(56), v2.ToDtype(torch.float32, scale=True)]
        expected = v2.Compose([*steps, v2.Normalize(MEAN, STD)])(frame.permute(2, 0, 1))
        from camfast.pictures.preparation import Preparation

        box = Preparation(64, (56, 56), MEAN, STD).box(height, width)
        got = ops.preprocess(frame.to(device), 56, MEAN, STD, box=box).cpu()
        assert (got - expected).abs().max() <= LEVEL


def test_strided_and_misaligned(device):
    frames = noise((2, 50, 80))
    expected = ops.preprocess(frames, 20, MEAN, STD)
    for view in (
        torch.cat([torch.zeros(1, dtype=torch.uint8), frames.flatten()]).to(device)[1:].view(frames.shape),
        frames.permute(0, 3, 1, 2).contiguous().to(device).permute(0, 2, 3, 1),
        torch.cat([frames, frames], 2).to(device)[:, :, :80],
    ):
        torch.testing.assert_close(ops.preprocess(view, 20, MEAN, STD).cpu(), expected, rtol=0, atol=2e-5)
    assert torch.equal(ops.preprocess(frames[0], 20, MEAN, STD), expected[0])


def test_threads_agree():
    frames = noise((1, 300, 400))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(ops.preprocess(frames, 96, MEAN, STD))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_opcheck_and_compile(device):
    frames = noise((2, 20, 30)).to(device)
    op = torch.ops.camfast.preprocess.default
    for box, last in ((None, False), ([1.0, 2.0, 20.0, 15.0], True)):
        torch.library.opcheck(op, (frames, [8, 9], list(MEAN), list(STD), torch.float16, box, last))

    def run(x):
        return ops.preprocess(x, (8, 9), MEAN, STD, box=(1, 2, 20, 15), channels_last=True) * 2

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(frames), run(frames))


def test_errors():
    frames = noise((2, 4, 5))
    for message, error, arguments in [
        ("uint8", TypeError, (frames.float(), 8, MEAN, STD)),
        ("uint8", TypeError, (np.zeros((4, 5, 3), np.uint8), 8, MEAN, STD)),
        ("[N, H, W, 3]", ValueError, (frames[..., :2], 8, MEAN, STD)),
        ("[N, H, W, 3]", ValueError, (frames[:, :0], 8, MEAN, STD)),
        ("positive", ValueError, (frames, 0, MEAN, STD)),
        ("three numbers", ValueError, (frames, 8, MEAN, (1.0, 1.0))),
        ("not 0", ValueError, (frames, 8, MEAN, (1.0, 1.0, 0.0))),
        ("float32", TypeError, (frames, 8, MEAN, STD, torch.int64)),
    ]:
        with pytest.raises(error, match=message.replace("[", r"\[").replace("]", r"\]")):
            ops.preprocess(*arguments)
    with pytest.raises(ValueError, match="box"):
        ops.preprocess(frames, 8, MEAN, STD, box=(3, 0, 3, 4))

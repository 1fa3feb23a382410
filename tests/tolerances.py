"""How far results may differ."""

from __future__ import annotations

import torch

TOLERANCES = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 0, "atol": 2e-6},
    torch.float16: {"rtol": 0, "atol": 5e-3},
    torch.bfloat16: {"rtol": 0, "atol": 4e-2},
}
"""How far heatmaps in [0, 1] may differ, by the dtype they were computed from."""

PARITY = 2e-6  # the largest difference from another library's heatmap, in fp32

"""What holds for an explainer whose calls come again, however they run: the same results, from several threads too."""

from __future__ import annotations

import threading
from typing import Any

import torch
from models import images
from torch import Tensor, nn

import camfast

__all__ = ["agree", "warmed", "wrong_in_threads"]


def agree(explainer: Any, model: nn.Module, x: Tensor, *args: Any, atol: float = 2e-6, **options: Any) -> Any:
    """The explanation of a call, which is that of an explainer as ever."""
    result = explainer(x, *args, **options)
    own = {name: getattr(explainer, name) for name in ("eval_mode", "aug_smooth", "eigen_smooth", "class_names")}
    expected = type(explainer)(model, explainer.layers or None, **own)(x, *args, **options)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if x.is_cuda else {"rtol": 0, "atol": atol}
    torch.testing.assert_close(result.heatmap, expected.heatmap, **tolerance)
    torch.testing.assert_close(result.scores, expected.scores, **tolerance)
    if isinstance(expected.targets, Tensor):
        assert torch.equal(result.targets, expected.targets)
    assert (result.scale, result.layers, result.class_names) == (expected.scale, expected.layers, expected.class_names)
    return result


def warmed(model: nn.Module, *args: Any, cls: Any = camfast.GradCAM, **options: Any) -> Any:
    """An explainer that replays from the next call on."""
    explainer = cls(model, graph=options.pop("graph", True), **options)
    for seed in range(2):
        explainer(images(2, seed=seed), *args)
    return explainer


def wrong_in_threads(explainer: Any, model: nn.Module, rounds: int, atol: float = 2e-6) -> list[int]:
    """Of eight calls by four threads, those whose results were not their own."""
    jobs = [(images(2, seed=i), i % 5) for i in range(8)]
    alone = [camfast.grad_cam(model, x, target) for x, target in jobs]
    wrong = []

    def work(mine: list[int]) -> None:
        for _ in range(rounds):
            for i in mine:
                result = explainer(*jobs[i])
                same = torch.equal(result.targets, alone[i].targets)
                if not same or not torch.allclose(result.heatmap, alone[i].heatmap, atol=atol):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=([i, i + 4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong

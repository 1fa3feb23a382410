"""Images of ever new sizes: nothing that is kept from call to call grows without bound.

``CAMFAST_SIZES=400 pytest -s tests/situations/test_many_sizes.py`` takes more of them, and prints the largest containers.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import Boxes, SmallNet
from torch import Tensor, nn

import camfast
from camfast.methods.recent import Recent
from camfast.model.bounded import Bounded

SIZES = int(os.environ.get("CAMFAST_SIZES", "60"))  # half of them in each of two rounds
MAPPINGS = (dict, weakref.WeakKeyDictionary, weakref.WeakValueDictionary)
MODULES = (nn.Module, Tensor, type, type(sys), type(lambda: 0), torch.dtype, torch.device, str, bytes, int, float)


class Patches(nn.Module):
    """A ViT without learnt positions, which takes any size."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.block(self.patch(x).flatten(2).transpose(1, 2)))
        return self.fc(tokens.mean(1))


class Nonlinear(SmallNet):
    """A head that is no linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(super().forward(x), 1)


def kept(*roots: Any) -> dict[str, int]:
    """How many things each container holds that the library's modules or ``roots`` refer to, by its path.

    Containers with a bound of their own are looked into, and not counted.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque((type(root).__name__, root) for root in roots)
    for name, module in list(sys.modules.items()):
        if name.startswith("camfast"):
            waiting.extend((f"{name}.{key}", value) for key, value in vars(module).items() if not key.startswith("__"))
    while waiting:
        path, thing = waiting.popleft()
        if isinstance(thing, functools._lru_cache_wrapper) and thing.cache_info().maxsize is None:
            found[path] = thing.cache_info().currsize
        if id(thing) in seen or isinstance(thing, (*MODULES, Recent)):  # which keeps 64 keys at most
            continue
        seen.add(id(thing))
        for key, value in parts(thing):
            waiting.append((f"{path}{key}", value))
        if isinstance(thing, (*MAPPINGS, list, set, deque)) and not isinstance(thing, Bounded):
            found[path] = max(found.get(path, 0), len(thing))
    return found


def parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing holds; the members of a container go by one path."""
    if isinstance(thing, weakref.ref):
        thing = thing()
        yield "", thing
    elif isinstance(thing, MAPPINGS):
        for key, value in list(thing.items()):
            yield from (("[key]", key), ("[]", value))
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from (("[]", value) for value in list(thing))
    if type(thing).__module__.startswith("camfast"):
        yield from ((f".{key}", value) for key, value in vars(thing).items()) if hasattr(thing, "__dict__") else ()
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        yield from ((f".{name}", getattr(thing, name)) for name in slots if hasattr(thing, name))


def grad_cam(model: nn.Module, **options: Any) -> tuple[Any, Callable[[Tensor], Any]]:
    explain = camfast.GradCAM(model.eval(), **options)
    return explain, lambda images: explain(images, 1)


def realtime() -> tuple[Any, Callable[[Tensor], Any]]:
    engine = camfast.Realtime(SmallNet().eval(), input_size=(16, 16), layers="stem")
    return engine, lambda images: engine(images[0].permute(1, 2, 0).mul(50).clamp(0, 255).byte().numpy())


def maps() -> tuple[Any, Callable[[Tensor], Any]]:
    features = camfast.FeatureMaps(Patches().eval(), "norm")
    return features, features


def gradients() -> tuple[Any, Callable[[Tensor], Any]]:
    found = camfast.Gradients(Patches().eval(), "norm")
    return found, found


def detector() -> tuple[Any, Callable[[Tensor], Any]]:
    explain = camfast.DetectionExplainer(Boxes().eval())
    return explain, lambda images: explain(images, min_score=0.0, top=1)


KINDS: dict[str, Callable[[], tuple[Any, Callable[[Tensor], Any]]]] = {
    "convolutions": lambda: grad_cam(SmallNet()),
    "not compiled": lambda: grad_cam(SmallNet(), compile=False),
    "tokens": lambda: grad_cam(Patches()),
    "a nonlinear head": lambda: grad_cam(Nonlinear(), layers="stem"),
    "two layers": lambda: grad_cam(SmallNet(), layers=["stem", "body"]),
    "Score-CAM": lambda: (lambda own: (own, lambda images: own(images, 1)))(
        camfast.ScoreCAM(SmallNet().eval(), "stem", channels=2)
    ),
    "a loss over heat": lambda: (lambda own: (own, lambda images: own(images, 1, differentiable=True)))(
        camfast.GradCAM(SmallNet(), "stem")
    ),
    "a detector": detector,
    "Realtime": realtime,
    "FeatureMaps": maps,
    "Gradients": gradients,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_nothing_grows_with_the_number_of_sizes(kind):
    torch.manual_seed(0)
    root, explain = KINDS[kind]()
    counts = []
    for half in range(2):
        for i in range(half * SIZES // 2, (half + 1) * SIZES // 2):
            explain(torch.rand(1, 3, 8 + 2 * (i % 40), 8 + 2 * (i // 40)))
        counts.append(kept(root))
    grown = {
        path: (counts[0].get(path, 0), n) for path, n in counts[1].items() if n > counts[0].get(path, 0) + SIZES // 4
    }
    print(f"\n{kind}: {SIZES} sizes; the largest containers:", sorted(counts[1].items(), key=lambda item: -item[1])[:6])
    assert not grown

"""Libraries by name, so that one script runs on a peer and on what camfast offers in its place."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Packages", "each"]


class Packages:
    """A library's modules, as attributes."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")


def each(script: Callable[[Packages], Any], *packages: str) -> list[Any]:
    """What ``script`` gives with each of ``packages``, from the same seed."""
    found = []
    for package in packages:
        torch.manual_seed(3)
        found.append(script(Packages(package)))
    return found

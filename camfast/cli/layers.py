"""``camfast layers``: a network's layers, and which one is explained."""

from __future__ import annotations

import argparse

import torch

from .. import zoo
from ..features.layer_tree import layer_tree
from .arguments import positive

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast layers``."""
    parser.add_argument("model", metavar="MODEL", help="a torchvision or timm classifier; its weights are not needed")
    parser.add_argument("--depth", type=positive, metavar="N", help="levels to show (all)")


def run(options: argparse.Namespace) -> int:
    """Prints the layers."""
    model, size = zoo.untrained(options.model)
    print(layer_tree(model, torch.randn(1, 3, *size), options.depth))
    return 0

"""What a model computes on the way: feature maps, gradients of tensors inside, and which layers there are."""

from __future__ import annotations

from .gradients import Gradients
from .maps import FeatureMaps

__all__ = ["FeatureMaps", "Gradients"]

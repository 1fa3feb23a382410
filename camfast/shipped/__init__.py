"""Networks that predict and explain: a module of plain operations, and files of it for other runtimes."""

from __future__ import annotations

from .kinds import SHIPPED
from .narrow import Weights
from .network import HeatNetwork, with_heatmap
from .write import Exported, export

__all__ = ["SHIPPED", "Exported", "HeatNetwork", "Weights", "export", "with_heatmap"]

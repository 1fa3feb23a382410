"""During training: heat that is watched, and heat that is trained on, in plain loops, Lightning and Hugging Face trainers.

Lightning and Hugging Face are imported only where their callbacks are made.
"""

from .heat_loss import HeatLoss
from .trainers import huggingface_heat_loss, lightning_heat_loss
from .watch import Watch, huggingface_callback, lightning_callback

__all__ = [
    "HeatLoss",
    "Watch",
    "huggingface_callback",
    "huggingface_heat_loss",
    "lightning_callback",
    "lightning_heat_loss",
]

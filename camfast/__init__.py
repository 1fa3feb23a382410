"""Class-activation maps at the price of a prediction.

result = camfast.grad_cam(model, images)          # one call
explainer = camfast.GradCAM(model)                # reusable
result = explainer(images, targets=camfast.TopK(5))
result.heatmap, result.scores, result.overlay()
"""

from __future__ import annotations

from . import callbacks, compat, methods, ops, reference, targets
from .explanation import Explanation
from .feature_gradients import Gradients
from .features import FeatureMaps
from .grids import grid
from .methods import *
from .realtime import Realtime, RealtimeResult
from .targets import TopK
from .version import __version__

__all__ = [
    "Explanation",
    "FeatureMaps",
    "Gradients",
    "Realtime",
    "RealtimeResult",
    "TopK",
    "__version__",
    "callbacks",
    "compat",
    "grid",
    "ops",
    "reference",
    "targets",
]
__all__ += methods.__all__

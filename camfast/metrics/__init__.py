"""How good heatmaps are, measured: faithfulness, localisation, robustness, sanity.

    result = camfast.grad_cam(model, images)
    camfast.metrics.road(model, images, result).combined  # [N]
    camfast.compare(model, ["grad_cam", "eigen_cam"], images).table

What all of them share:

- *Heat* is an :class:`~camfast.Explanation`, or a tensor ``[N, H, W]`` or ``[N, K, H, W]`` in [0, 1]. Where it has another
  size than the images it is resized linearly.
- *Targets* are what explainers take; an explanation brings its own, so that what was explained is what is measured.
- *Scores* of classes are softmax probabilities unless a metric says otherwise; ``score="output"`` takes the model's own. A
  callable target counts as it is.
- *Results* have a value per map, ``[N]`` or ``[N, K]``; their mean over images is what papers report. NaN marks what cannot be
  measured: heat that is not finite, an image without an object.
- The model is left as it was: its mode, gradients, buffers and flags.
"""

from .adcc import ADCC, adcc, coherency, complexity
from .box_accuracy import MaxBoxAcc, max_box_acc
from .comparison import Comparison, compare
from .confidence import Confidence, average_drop, average_gain, average_increase, confidence
from .curves import Cover, Curve, deletion, insertion
from .fidelity import infidelity
from .heat import Heat
from .imputation import noisy_linear_imputation
from .localisation import energy_inside, iou, pointing_game
from .measures import METRICS, Metric
from .randomisation import LayerRandomisation, layer_randomisation
from .removal import Road, road
from .scores import Score
from .sensitivity import max_sensitivity
from .similarity import pearson, spearman, ssim

__all__ = [
    "ADCC",
    "METRICS",
    "Comparison",
    "Confidence",
    "Cover",
    "Curve",
    "Heat",
    "LayerRandomisation",
    "MaxBoxAcc",
    "Metric",
    "Road",
    "Score",
    "adcc",
    "average_drop",
    "average_gain",
    "average_increase",
    "coherency",
    "compare",
    "complexity",
    "confidence",
    "deletion",
    "energy_inside",
    "infidelity",
    "insertion",
    "iou",
    "layer_randomisation",
    "max_box_acc",
    "max_sensitivity",
    "noisy_linear_imputation",
    "pearson",
    "pointing_game",
    "road",
    "spearman",
    "ssim",
]

"""Losses on heat: terms that a training step adds, so that a network is right for the right reasons.

    result = explainer(images, labels, differentiable=True)
    loss = F.cross_entropy(result.scores, labels) + 0.5 * camfast.losses.energy_outside(result.heatmap, masks)

What all of them share:

- *Heat* is ``[N, H, W]`` or ``[N, K, H, W]``, floating, in [0, 1] as explainers give it; sums are taken in fp32, or in fp64.
- *Masks* say where heat may lie, *boxes* likewise; see ``inside_of``. Where their size is another one than the heat's
  they are resized to it, by area.
- *Weights* ``[N]`` (or ``[N, K]``) say how much each image counts; the mean is over the sum of the weights, and 0 where
  that is 0. An image without annotation has weight 0.
- *Reduction* is ``"mean"``, ``"sum"``, or ``"none"`` for a value per map, each times its weight.
- A blank map gives a finite loss with a finite gradient: no share, range or length of it is taken.
- Heat that is not finite raises ``ValueError``, which names the images; on a device, and in compiled code, where looking
  would wait, NaN passes on to the loss. Heat without a graph, where gradients are recorded, is said in a warning.
"""

from .consistency import heat_consistency
from .distillation import heat_distillation
from .energy import energy_inside, energy_outside
from .guided_attention import attention_mining, guided_attention, soft_erase
from .heat import Reduction
from .masks import Boxes, Masks, box_masks, inside_of
from .plain_heat import sparsity, total_variation
from .right_reasons import right_for_the_right_reasons, right_for_the_right_reasons_heat
from .views import View

__all__ = [
    "Boxes",
    "Masks",
    "Reduction",
    "View",
    "attention_mining",
    "box_masks",
    "energy_inside",
    "energy_outside",
    "guided_attention",
    "heat_consistency",
    "heat_distillation",
    "inside_of",
    "right_for_the_right_reasons",
    "right_for_the_right_reasons_heat",
    "soft_erase",
    "sparsity",
    "total_variation",
]

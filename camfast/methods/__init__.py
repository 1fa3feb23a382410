"""The methods: a class each, and beside it a function of one call.

Each module registers its own (:mod:`camfast.methods.registry`) and names them once, in its ``__all__``.
"""

from __future__ import annotations

from . import (
    composite,
    eigen,
    factorization,
    fullgrad,
    gradient,
    guided,
    masking,
    perturbation,
    projection,
    sliding,
    smooth,
    transformer,
)
from .base import Explainer
from .composite import *
from .custom import method
from .eigen import *
from .factorization import *
from .fullgrad import *
from .gradient import *
from .guided import *
from .masking import *
from .perturbation import *
from .projection import *
from .registry import METHODS
from .sliding import *
from .smooth import *
from .transformer import *

__all__ = ["METHODS", "Explainer", "method"]
__all__ += composite.__all__
__all__ += eigen.__all__
__all__ += factorization.__all__
__all__ += fullgrad.__all__
__all__ += gradient.__all__
__all__ += guided.__all__
__all__ += masking.__all__
__all__ += perturbation.__all__
__all__ += projection.__all__
__all__ += sliding.__all__
__all__ += smooth.__all__
__all__ += transformer.__all__

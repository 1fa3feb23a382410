"""A method of one's own: a name, a weight rule and what the rule needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from .eigen import ActivationExplainer
from .explainer import Layers
from .explanation import Explanation
from .gradient import GradientExplainer
from .layer_explainer import LayerExplainer
from .registry import Method, register
from .weights import as_op

__all__ = ["method"]


def method(
    name: str, needs: Literal["gradients", "activations"] = "gradients"
) -> Callable[[Callable[..., Tensor]], Method[Layers, ..., Explanation]]:
    """Makes a method of the weight rule below it, and registers it: ``@camfast.method("my_cam")``.

    The rule takes activations ``A`` ``[N, C, S]`` and gradients ``G`` ``[N, C, S]``, in fp32 (fp64 for fp64) and with a
    map's positions in one last dimension S, and returns the channels' weights ``[N, C]``, or ``[N, C, S]`` where each
    position has its own. For K targets an image it is called once, with ``A`` ``[N, 1, C, S]`` and ``G``
    ``[N, K, C, S]``: a formula over the last dimension serves both. With ``needs="activations"`` it takes ``A`` alone,
    no backward pass runs, and every target gets the same map.

    The decorated name becomes the function of one call, ``my_cam(model, images, targets, layers)``; the class of
    reusable explainers is ``camfast.METHODS["my_cam"]``, and layers, targets, sizes and options are those of the others.
    A method of another kind is a subclass of :class:`camfast.methods.LayerExplainer` with a ``maps`` of its own, given to
    :func:`camfast.methods.register`.

    Raises ``ValueError`` for a name that another method has or that is no identifier.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"expected a name such as 'my_cam' for the method, got {name!r}")
    if needs not in ("gradients", "activations"):
        raise ValueError(f"needs must be 'gradients' or 'activations', got {needs!r}")

    def decorate(rule: Callable[..., Tensor]) -> Method[Layers, ..., Explanation]:
        parts: dict[str, Any] = {"name": name, "__doc__": rule.__doc__ or f"{name}, a method of one's own."}
        parts["__module__"] = rule.__module__
        parts["derivative"] = True
        base: type[LayerExplainer]
        if needs == "gradients":
            base, parts["op"] = GradientExplainer, staticmethod(as_op(rule, name))
        else:
            op = as_op(lambda A, _: rule(A), name)
            base = ActivationExplainer
            parts["map_of"] = lambda self, activations, size, normalize: op(activations, activations, size, normalize)
        title = "".join(word.capitalize() for word in name.split("_"))
        return register(type(title, (base,), parts))

    return decorate

"""Calls that come again: replayed from a CUDA graph (``graph=True``), or run by a compiled network (``compile=True``).

    first call of a kind   as ever: the layer is found, its layout read
    second call            the network is compiled, the call captured
    from then on           inputs ─▶ the graph's memory ─▶ replay ─▶ results copied out
                                                             └▶ is the model as it was? no: forgotten, the call runs as ever

Of a kind are calls with inputs of one shape, dtype and layout, targets of one kind, and the same size and options.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import warn
from ..model.inputs import Images, Inputs
from ..model.tap import NoGradient
from ..model.watched import Watched
from .explanation import Explanation
from .kinds import Call
from .made import Made, Refused
from .ranges import Normalize
from .replayed import Replayed, capture

if TYPE_CHECKING:
    from ..targets import Targets
    from .explainer import Explainer, Size
    from .layer_explainer import LayerExplainer

__all__ = ["Repeated", "check_repeats"]

GRAPHS = 8  # captured calls that are kept: each holds the memory of its pass
COMPILED = 4  # compiled networks that are kept: each holds a copy of the weights


class Repeated:
    """What one explainer has captured and compiled. It holds nothing of the explainer itself.

    Attributes:
        graph_problem: why the last call ran without a CUDA graph, where one was asked for; None where nothing is against it.
        compile_problem: why the last call ran uncompiled.
    """

    def __init__(self) -> None:
        self.graph_problem: str | None = None
        self.compile_problem: str | None = None
        self._graphs: Made[Replayed] = Made(GRAPHS)
        self._compiled: Made[LayerExplainer] = Made(COMPILED)
        self._told: set[str] = set()
        self._telling = threading.Lock()

    def __call__(
        self, explainer: LayerExplainer, images: Images, targets: Targets, size: Size, normalize: Normalize
    ) -> Explanation:
        """The call of ``explainer``, in the fastest way there is by now."""
        call = Call(explainer, Inputs.of(images, explainer.model), targets, size, normalize)
        if call.is_traced:
            return explainer.explain(call.inputs, targets, size, normalize)
        if not explainer.known_layers(targets):
            explainer.prepare(call.inputs, targets)  # finds them
        twin = self._twin(call) if explainer.compile else None
        if explainer.graph:
            found = self._replayed(call, twin)
            if found is not None:
                return found
        return _step(explainer, twin)(call.inputs, targets, size, normalize)

    def _replayed(self, call: Call, twin: LayerExplainer | None) -> Explanation | None:
        """The call by a CUDA graph; None where there is none for it."""
        explainer, model = call.explainer, call.explainer.model
        why = call.against_graph
        if why is None:
            values = bool(explainer.compile)
            known = self._graphs.find(call.kind)
            result = known(call) if isinstance(known, Replayed) else None
            now = Watched(model)  # while the device computes
            why = _against(now, explainer)
            if why is None:
                if not self._graphs.holds(now, values):
                    known = result = None
                if known is None:
                    step = _step(copy.copy(explainer), twin)  # a graph must not keep its own explainer alive
                    make = functools.partial(capture, call, step)
                    known = self._graphs.make(call.kind, model, make, values)
                    result = known(call) if isinstance(known, Replayed) else None
                why = str(known) if isinstance(known, Refused) else None
        self.graph_problem = why
        self._tell(why, "graph", "without a CUDA graph")
        return result if why is None else None

    def _twin(self, call: Call) -> LayerExplainer | None:
        """The explainer of the compiled network; None where there is none for the call."""
        explainer, model = call.explainer, call.explainer.model
        why, twin = call.against_compiling, None
        if why is None:
            now = Watched(model)
            why = _against(now, explainer)
            if why is None:
                self._compiled.holds(now, values=True)
                known = self._compiled.find(call.shape)
                if known is None:
                    make = functools.partial(_compiled, copy.copy(explainer), call)
                    known = self._compiled.make(call.shape, model, make, values=True)
                why = str(known) if isinstance(known, Refused) else None
                twin = None if isinstance(known, Refused) else known
        self.compile_problem = why
        if explainer.compile != "auto":
            self._tell(why, "compile", "uncompiled")
        return twin

    def _tell(self, why: str | None, option: str, how: str) -> None:
        """Says once why an option does not help."""
        with self._telling:
            if why is None or (told := f"{option}: {why}") in self._told:
                return
            self._told.add(told)
        warn(f"{option}=True: the call runs {how}, as ever: {why}")


def check_repeats(cls: type[Explainer], graph: Any, compile: Any) -> None:
    """Raises ``ValueError`` for what is no ``graph`` or ``compile``, and where ``cls`` has no use for it."""
    if graph not in (True, False, "reuse"):
        raise ValueError(f"graph must be True, False or 'reuse', got {graph!r}")
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile must be True, False or 'auto', got {compile!r}")
    if graph and "graph" not in cls.repeats:
        raise ValueError(
            f"a CUDA graph holds one pass without a look at its values, and {cls.__name__} takes more than that, got "
            f"graph={graph!r}; leave it out"
        )
    if compile and "compile" not in cls.repeats:
        raise ValueError(
            f"methods of one gradient, such as GradCAM, run compiled, got {cls.__name__} with compile={compile!r}; leave it out"
        )


def _against(now: Watched, explainer: LayerExplainer) -> str | None:
    """What in the model is against something that stands for its passes; None where nothing is."""
    if now.training and not explainer.eval_mode:
        return "the model must be in evaluation mode, got training mode with eval_mode=False"
    return now.reason


def _step(explainer: LayerExplainer, twin: LayerExplainer | None) -> Callable[..., Explanation]:
    """A call of ``explainer``, whose pass ``twin`` makes where there is one."""
    return explainer.explain if twin is None else functools.partial(_by, twin, explainer)


def _by(
    twin: LayerExplainer, explainer: LayerExplainer, inputs: Inputs, targets: Any, size: Any, normalize: Any
) -> Explanation:
    prepared = explainer.prepare(inputs, targets)
    try:
        found = twin.layer_maps(prepared, targets)
    except NoGradient:  # another layer may have one
        return explainer.explain(inputs, targets, size, normalize)
    if explainer.is_unreached(found.maps):
        return explainer.explain(inputs, targets, size, normalize)
    return explainer.result(found, size, normalize)


def _compiled(explainer: LayerExplainer, call: Call) -> LayerExplainer:
    from .compiled import compiled  # registers an op, and imports what most calls do not need

    quick = explainer.compile == "auto"
    explainer.use_layers_of(explainer)  # those of the call, whatever it explains
    explainer.graph = explainer.compile = explainer.aug_smooth = False
    return compiled(explainer, call.inputs.image, quick, targets=call.targets)

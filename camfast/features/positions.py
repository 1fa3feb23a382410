"""Where the positions are in what layers give: by the layer's kind, or by changes planted for many layers at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..brief import brief
from ..errors import DoubtWarning, warn
from ..model.inputs import Inputs
from ..model.layouts import Layout, has_channels_second, layout_of
from ..model.planting import PassFailed, Planted
from ..model.probe import Reading, known, read

__all__ = ["Call", "Positions"]

Call = tuple[nn.Module, str]
"""A layer and the name of one of its calls, such as ``"net#2"``."""

_AT_ONCE = 32  # layers whose outputs for one image, changed in several places, are in memory at the same time


class Positions:
    """Layouts of the outputs of ``model``'s layers. What was read is remembered with the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def read(self, calls: Sequence[Call], inputs: Inputs) -> None:
        """Plants changes in the first image, and sees where in the outputs of ``calls`` they arrive.

        Layers whose kind tells are left out, and what was read before. Two passes over one image, and up to seven more
        for layers that are not clear. Warns once (``DoubtWarning``) of layers whose layout is not proven.
        """
        source = Planted(self.model, inputs.first())
        open_calls = [(module, name) for module, name in calls if not has_channels_second(module)]
        doubts: dict[str, str] = {}
        for start in range(0, len(open_calls), _AT_ONCE):
            part = open_calls[start : start + _AT_ONCE]
            together = _Together(self.model, source.inputs, part)
            for module, name in part:
                try:
                    activations = together.activations(module, name, None)
                    if sum(side > 1 for side in activations.shape[1:]) < 2:
                        continue  # channels or positions, not both: nothing to tell apart
                    doubt = read(self.model, module, name, activations, together).doubt
                except PassFailed as error:
                    doubt = f"a pass of one changed image raised {type(error.__cause__).__name__}"
                if doubt is not None:
                    doubts[name] = doubt
        if doubts:
            first, *others = doubts
            also = f" (and so for {brief(others)})" if others else ""
            warn(
                f"{doubts[first]}{also}, so that they are taken from the shape; reshape= turns it into [N, C, *map]",
                DoubtWarning,
            )

    def layout(self, call: Call, output: Tensor, inputs: Inputs) -> Layout | None:
        """The layout of ``output``, what ``call`` gave for ``inputs``; None where it has no positions.

        Raises ``ValueError`` for tokens that fit several grids, where nothing was read.
        """
        module, name = call
        if has_channels_second(module, output.shape) and output.shape[0] == inputs.batch:
            return Layout("channels_first", tuple(output.shape[2:]))
        reading: Reading | None = known(self.model, module, name, output, inputs, inputs.batch)
        return layout_of(output.shape, inputs.image.shape, self.model) if reading is None else reading.layout


class _Together(Planted):
    """One pass for each change, for several layers."""

    def __init__(self, model: nn.Module, inputs: Inputs, calls: Sequence[Call]) -> None:
        super().__init__(model, inputs)
        self.calls = calls
        self._seen: dict[int | None, dict[Call, Tensor]] = {}

    def activations(self, layer: nn.Module, name: str, turn: int | None) -> Tensor:
        if turn not in self._seen:
            self._seen[turn] = dict(zip(self.calls, self.all_activations(self.calls, turn), strict=True))
        return self._seen[turn][layer, name]

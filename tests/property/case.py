"""One case: a network, the questions asked of it, the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .choices import Choices, drawn, replayed
from .networks import Network, network
from .peers import beside
from .questions import questions
from .traces import traces
from .verdicts import Verdict, asked

__all__ = ["Case", "case_of", "examined"]


@dataclass(repr=False)
class Case:
    """What was drawn, and what came out."""

    made: dict[str, Any]
    network: Network
    answers: list[tuple[Any, Verdict]]  # questions, or what was run beside a peer

    @property
    def wrong(self) -> list[tuple[Any, Verdict]]:
        """The silent wrongs."""
        return [(question, verdict) for question, verdict in self.answers if not verdict.good]

    @property
    def outcome(self) -> str:
        """Of the network: the worst of its answers; refused where the question that names no layer was."""
        if self.wrong:
            return "silently wrong"
        first = self.answers[0][1].outcome
        warned = any(verdict.outcome == "warned" for _, verdict in self.answers)
        return first if first == "refused" else "warned" if warned else "right"

    def __repr__(self) -> str:
        return f"case_of({self.made})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # hypothesis prints by this
        printer.text(repr(self))

    def __str__(self) -> str:
        lines = [f'replay with: python -m tests.property --replay "{self.made}"']
        lines += [f"{verdict.outcome}: {question}: {verdict.detail}" for question, verdict in self.wrong]
        return "\n".join(lines)


def examined(choose: Choices) -> Case:
    """Draws a network and its questions, asks them, and judges the answers."""
    torch.manual_seed(0)
    net = network(choose)
    answers: list[tuple[Any, Verdict]] = [(question, asked(net, question)) for question in questions(choose, net)]
    trace = traces(net, answers[0][0])
    if trace is not None:
        answers.append(("traces left", trace))
    compared = beside(choose, net)
    if compared is not None:
        answers.append(compared)
    return Case(choose.made, net, answers)


def case_of(made: Mapping[str, Any] | int) -> Case:
    """The case of a seed, or of choices that were written down."""
    return examined(drawn(made) if isinstance(made, int) else replayed(made))

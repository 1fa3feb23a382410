"""Examines many networks and prints figures: ``python -m tests.property --networks 10000 --seed 1 --json out.json``.

Network ``i`` of a run is drawn from seed ``seed * 1_000_000 + i``: ``--only`` examines some seeds again, ``--replay`` a
network that was written down, ``--shrink`` makes a failing one simple.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import sys
import time
import warnings
from pathlib import Path

import torch

from .case import Case, case_of
from .choices import shrunk


class Figures:
    """Counts of outcomes, and where to find each failure again."""

    def __init__(self) -> None:
        self.networks: collections.Counter[str] = collections.Counter()
        self.answers: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.wrong: collections.Counter[str] = collections.Counter()
        self.peers: collections.Counter[str] = collections.Counter()
        self.failures: list[dict] = []

    def add(self, seed: int, case: Case) -> None:
        self.networks[case.outcome] += 1
        for question, verdict in case.answers:
            self.answers[verdict.outcome if verdict.good else "silently wrong"] += 1
            if isinstance(question, str) and "." in question:
                self.peers[f"{question.partition('.')[0]}: {verdict.outcome}"] += 1
            if verdict.outcome == "refused":
                self.reasons[verdict.detail] += 1
            if not verdict.good:
                self.wrong[verdict.outcome] += 1
                found = {"seed": seed, "kind": verdict.outcome, "question": str(question), "detail": verdict.detail}
                self.failures.append({**found, "made": case.made})

    def text(self) -> str:
        """A table of all."""
        lines = []
        for title, counts in (
            ("networks", self.networks), ("answers", self.answers), ("silent wrongs by kind", self.wrong),
            ("refusals by reason", self.reasons), ("beside the peers", self.peers),
        ):  # fmt: skip
            total = sum(counts.values())
            lines.append(f"{title}: {total}")
            lines += [f"  {count:6d}  {100 * count / total:5.1f} %  {name}" for name, count in counts.most_common()]
        return "\n".join(lines)

    def seeds(self, most: int = 8) -> str:
        """The seeds of failures, by kind."""
        by_kind: dict[str, list[int]] = {}
        for failure in self.failures:
            own = by_kind.setdefault(failure["kind"], [])
            if failure["seed"] not in own:
                own.append(failure["seed"])
        return "\n".join(f"{kind}: --only {' '.join(map(str, seeds[:most]))}" for kind, seeds in by_kind.items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.property", description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", type=int, nargs="+", metavar="SEED", help="these seeds alone")
    parser.add_argument("--replay", metavar="CHOICES", help="a network as it was printed, a dict")
    parser.add_argument("--shrink", action="store_true", help="make what --only or --replay names simple")
    return parser.parse_args()


def _shown(made: int | dict, simple: bool) -> int:
    """Prints one case in full."""
    case = case_of(made)
    if simple and case.wrong:
        kinds = {verdict.outcome for _, verdict in case.wrong}
        fails = lambda wanted: bool(kinds & {v.outcome for _, v in case_of(wanted).wrong})  # noqa: E731
        case = case_of(shrunk(case.made, fails))
    print(case)
    for question, verdict in case.answers:
        print(f"{verdict.outcome}: {question}; {verdict.layers} {verdict.detail}")
    return bool(case.wrong)


def main() -> int:
    options = _arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    if options.replay:
        return _shown(ast.literal_eval(options.replay), options.shrink)
    if options.only:
        return max([_shown(seed, options.shrink) for seed in options.only])
    figures, start = Figures(), time.perf_counter()
    for i in range(options.networks):
        seed = options.seed * 1_000_000 + i
        try:
            figures.add(seed, case_of(seed))
        except Exception as error:
            raise RuntimeError(f"the generator or the judge failed at --only {seed}") from error
    print(figures.text())
    print(figures.seeds())
    print(f"{time.perf_counter() - start:.0f} s")
    if options.json:
        names = ("networks", "answers", "wrong", "reasons", "peers")
        found = {name: dict(getattr(figures, name).most_common()) for name in names}
        options.json.write_text(
            json.dumps({**vars(options), **found, "failures": figures.failures}, default=str, indent=1)
        )
    return bool(figures.failures)


if __name__ == "__main__":
    sys.exit(main())

"""For every network: the right heatmap, or a word about why not. Never a silent wrong one.

``CAMFAST_PROPERTY_NETWORKS=10000 pytest tests/property -k networks`` is the nightly size, which must find none;
``CAMFAST_PROPERTY_SEED`` draws others. Without it a hundred are drawn, and may not do worse than a bound.
"""

from __future__ import annotations

import os

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from .case import Case, case_of, examined  # noqa: E402
from .choices import Choices  # noqa: E402
from .kept import KEPT  # noqa: E402

NETWORKS = int(os.environ.get("CAMFAST_PROPERTY_NETWORKS", "0"))
MOST_WRONG = 0.01  # of drawn networks; see test_drawn_networks_are_right_or_said_so
SEED = int(os.environ.get("CAMFAST_PROPERTY_SEED", "1"))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Networks and questions, examined. Hypothesis shrinks each choice towards its first option."""
    return examined(Choices(lambda name, count: draw(st.integers(0, count - 1))))


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not NETWORKS, reason="set CAMFAST_PROPERTY_NETWORKS: no silent wrong map at all is not reached yet")
@seed(SEED)
@settings(
    max_examples=max(1, NETWORKS),
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(case=cases())
def test_networks(case: Case) -> None:
    if case.wrong:
        raise AssertionError(str(case))


def test_drawn_networks_are_right_or_said_so() -> None:
    """A ratchet: of networks that people have, how many may be explained wrongly without a word, and how many refused.

    The aim is none of the first (``test_networks``); today about two in a thousand are wrong. Lower the bound with every mend.
    """
    count = 100
    outcomes = [case_of(SEED * 1_000_000 + i).outcome for i in range(count)]
    wrong, refused = outcomes.count("silently wrong"), outcomes.count("refused")
    assert wrong <= MOST_WRONG * count, f"{wrong} of {count} networks wrong without a word"
    assert refused <= 0.05 * count, f"{refused} of {count} networks refused"


@pytest.mark.parametrize("made", KEPT.values(), ids=list(KEPT))
def test_kept(made: dict | int) -> None:
    case = case_of(made)
    assert not case.wrong, str(case)


def test_a_seed_gives_the_same_answers_again() -> None:
    first, second = (case_of(11) for _ in range(2))
    assert first.made == second.made
    assert [v for _, v in first.answers] == [v for _, v in second.answers]
    assert case_of(first.made).made == first.made

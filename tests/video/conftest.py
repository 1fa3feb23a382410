"""What the tests of the live page share: a small clip, a hub over it, and nothing of a stream left behind."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from live_server import small_clip

    return small_clip(tmp_path_factory.mktemp("live"))


@pytest.fixture
def hub(clip):
    from live_server import small_hub

    return small_hub(clip)


@pytest.fixture
def nothing_left_behind():
    from live_server import threads_left

    yield
    assert threads_left() == []

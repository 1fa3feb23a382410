"""Video files: decoded, explained frame by frame, drawn, and encoded again, with the sound in its place."""

from __future__ import annotations

from .decode import Clip, Picture, Sound, VideoError
from .encode import Writer
from .loop import LAYOUTS, Progress, Report, explain_video

__all__ = ["LAYOUTS", "Clip", "Picture", "Progress", "Report", "Sound", "VideoError", "Writer", "explain_video"]

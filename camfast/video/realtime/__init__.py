"""A frame in, the same frame with heat over it out: for cameras, clips and loops that explain as they go.

frame ──preprocess──▶ network (compiled; on CUDA one graph) ──▶ scores, map ──smoothed──▶ drawn over the frame
"""

from .engine import IMAGENET_MEAN, IMAGENET_STD, Realtime
from .result import RealtimeResult

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Realtime", "RealtimeResult"]

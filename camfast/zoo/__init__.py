"""Networks by name, ready to be shown photographs: classifiers, and detectors with what finds their boxes."""

from __future__ import annotations

from .classifiers import DEFAULT, Network, labels_from, load, untrained
from .detectors import Detector, is_detector, load_detector

__all__ = [
    "DEFAULT",
    "Detector",
    "Network",
    "is_detector",
    "labels_from",
    "load",
    "load_detector",
    "untrained",
]

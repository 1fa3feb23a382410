"""Detectors: why is this box here? A heatmap of what raised each box's score.

result = camfast.explain_detections(model, photographs)
result.boxes[0], result.names[0], result.scores[0], result.heatmaps[0]
result.overlay(0)
"""

from __future__ import annotations

from .candidates import Candidates
from .detections import Detections
from .explainer import DetectionExplainer, explain_detections

__all__ = ["Candidates", "DetectionExplainer", "Detections", "explain_detections"]

"""Bootstrap: the reference until the kernels are built."""
from . import reference
from .colormaps import table
from .reference import cam, grad_cam, grad_cam_elementwise, grad_cam_plus_plus, hires_cam, layer_cam, resize_normalize, xgrad_cam  # noqa


def overlay(frames, heatmap, colormap="jet", alpha=0.5):
    return reference.overlay(frames, heatmap, table(colormap, frames.device), alpha)

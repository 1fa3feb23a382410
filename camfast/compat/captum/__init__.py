"""captum's Grad-CAM interface (0.9.0) over camfast: ``attr.LayerGradCam``, ``attr.GuidedGradCam``, ``attr.GuidedBackprop``.

``docs/migrate/captum.md`` lists what is here and what is not.
"""

from __future__ import annotations

from . import attr

__all__ = ["attr"]

__version__ = "0.9.0"
"""The version of captum whose interface this is."""

strict: bool | None = None
"""Whether attributions keep the graph they were made in, as captum's do; None leaves it to CAMFAST_COMPAT_STRICT."""

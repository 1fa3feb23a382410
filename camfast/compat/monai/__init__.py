"""MONAI's class-activation maps (1.6.1) over camfast: ``visualize.CAM``, ``GradCAM``, ``GradCAMpp``, in two and three dimensions.

Where MONAI is wrong the corrected value is the default; ``strict`` (set it here, or CAMFAST_COMPAT_STRICT=1) gives MONAI's
own. ``docs/migrate/monai.md`` lists every name.
"""

from __future__ import annotations

from . import visualize

__all__ = ["visualize"]

__version__ = "1.6.1"
"""The version of MONAI whose interface this is."""

strict: bool | None = None
"""Whether MONAI's own numbers are wanted where it is wrong; None leaves it to CAMFAST_COMPAT_STRICT. Read at every call."""

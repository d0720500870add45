"""hsi-fuse: sharpen a hyperspectral image with an unregistered high-resolution reference.

from hsi_fuse import fuse, read, write

hsi, guide = read.read_hsi("scene.hdr"), read.open_guide("camera.tif")
result = fuse(hsi, guide, scale=4)
write.save(result, "sharp.tif", products=["confidence", "support"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hsi_fuse.errors import HsiFuseError, HsiFuseWarning

if TYPE_CHECKING:
    from hsi_fuse import read, write
    from hsi_fuse.inputs import Inputs
    from hsi_fuse.judged import Judged, judge_product, save_judged
    from hsi_fuse.pipeline import FusionResult, fuse, plan
    from hsi_fuse.preset import load_preset
    from hsi_fuse.read import open_guide, read_hsi
    from hsi_fuse.registered import RegisteredGuide, register_guide, save_registered
    from hsi_fuse.scene import Job, RunSettings, run_scene
    from hsi_fuse.write import CompactProduct, expand, open_compact, save

__version__ = "0.1.0"

# what the public names need (torch above all) is loaded on first use: `hsi-fuse --help` stays quick
_HOMES = {
    "CompactProduct": "write",
    "FusionResult": "pipeline",
    "Inputs": "inputs",
    "Job": "scene",
    "Judged": "judged",
    "RegisteredGuide": "registered",
    "RunSettings": "scene",
    "expand": "write",
    "fuse": "pipeline",
    "open_compact": "write",
    "judge_product": "judged",
    "plan": "pipeline",
    "load_preset": "preset",
    "open_guide": "read",
    "read_hsi": "read",
    "register_guide": "registered",
    "run_scene": "scene",
    "save": "write",
    "save_judged": "judged",
    "save_registered": "registered",
}

__all__ = [
    "CompactProduct",
    "FusionResult",
    "HsiFuseError",
    "HsiFuseWarning",
    "Inputs",
    "Job",
    "Judged",
    "RegisteredGuide",
    "RunSettings",
    "expand",
    "fuse",
    "judge_product",
    "load_preset",
    "open_compact",
    "open_guide",
    "plan",
    "read",
    "read_hsi",
    "register_guide",
    "run_scene",
    "save",
    "save_judged",
    "save_registered",
    "write",
]


def __getattr__(name: str) -> Any:
    if name in ("read", "write"):
        return import_module(f"hsi_fuse.{name}")
    if name in _HOMES:
        return getattr(import_module(f"hsi_fuse.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Writers: a fused scene -> its raster and what stands beside it; a compact product -> rasters."""

from hsi_fuse.write.compact import CompactProduct, open_compact
from hsi_fuse.write.cube import Driver, WriteSummary, write_cube, write_image
from hsi_fuse.write.expanded import bands_as_rgb, bands_in_range, expand
from hsi_fuse.write.product import CompactDtype
from hsi_fuse.write.saved import (
    check_outputs,
    endings_with,
    gate_written,
    outputs,
    refusal_reported,
    save,
    stored_as,
)
from hsi_fuse.write.table import ENDINGS, ON_REQUEST, REPORT, SIDE_PRODUCTS

__all__ = [
    "ENDINGS",
    "ON_REQUEST",
    "REPORT",
    "SIDE_PRODUCTS",
    "CompactDtype",
    "CompactProduct",
    "Driver",
    "WriteSummary",
    "bands_as_rgb",
    "bands_in_range",
    "check_outputs",
    "endings_with",
    "expand",
    "gate_written",
    "open_compact",
    "outputs",
    "refusal_reported",
    "save",
    "stored_as",
    "write_cube",
    "write_image",
]

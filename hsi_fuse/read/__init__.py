"""Readers: rasters and products -> Raster; the guide -> windows of it."""

from hsi_fuse.read.guide import Guide, open_guide
from hsi_fuse.read.hsi import read_hsi
from hsi_fuse.read.mask import Mask, open_mask
from hsi_fuse.read.parts import Parts

__all__ = ["Guide", "Mask", "Parts", "open_guide", "open_mask", "read_hsi"]

"""Readers: ENVI, GeoTIFF and other GDAL rasters -> Raster; the guide -> windows of it."""

from hsi_fuse.read.guide import Guide, open_guide
from hsi_fuse.read.hsi import read_hsi

__all__ = ["Guide", "open_guide", "read_hsi"]

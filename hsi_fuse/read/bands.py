"""A folder of single-band rasters as one image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hsi_fuse.errors import ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.read import geotiff
from hsi_fuse.read.source import Source, Spectrum, warn
from hsi_fuse.read.store import Stack

SUFFIXES = (".tif", ".tiff", ".jp2")
MOST_FILES = 64
SAME_PX = 1e-3


def find(path: Path) -> Source | None:
    """The single-band rasters (GeoTIFF, JPEG 2000) that lie in a folder as one image; None for other paths.

    Bands come in the natural order of the files' names. Only files on the finest grid count; what is coarser
    is left out with a warning, since it would show the reference's detail where it has none.

    Raises
    ------
    ReadError
        If files of several bands lie there too, or the grids of equal pixel size differ.
    """
    if not path.is_dir():
        return None
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()), key=_natural)
    if not files:
        return None
    if len(files) > MOST_FILES:
        raise ReadError(f"{path} holds {len(files)} rasters, too many for the bands of one image; name one")
    sources = [geotiff.describe(file) for file in files]
    wide = [source.path.name for source in sources if source.bands > 1]
    if wide:
        raise ReadError(
            f"{path} is a folder with rasters of several bands ({', '.join(wide[:3])}); name one of them, or "
            "keep only single-band files in it"
        )
    return stacked(sources, path)


def stacked(sources: Sequence[Source], path: Path) -> Source:
    """Sources on one grid as one source, called `path`; the coarser of them are left out with a warning."""
    finest = min(source.grid.gsd_m for source in sources)
    fine = [source for source in sources if source.grid.gsd_m < 1.01 * finest]
    coarse = [source.path.name for source in sources if source not in fine]
    if coarse:
        warn(f"{path}: {', '.join(coarse)} have larger pixels than the finest bands and are left out")
    first = fine[0]
    for other in fine[1:]:
        if not _same(first.grid, other.grid):
            raise ReadError(
                f"{path}: {first.path.name} and {other.path.name} lie on different grids; bring them onto "
                "one (gdalwarp or gdalbuildvrt)"
            )
    centres = [source.spectrum.wavelengths_nm for source in fine]
    known = [centre for centre in centres if centre is not None]
    return replace(
        first,
        path=path,
        store=Stack(tuple(source.store for source in fine)),
        dtype=str(np.result_type(*(source.dtype for source in fine))),
        scale=np.concatenate([source.scale for source in fine]),
        offset=np.concatenate([source.offset for source in fine]),
        nodata=tuple(nodata for source in fine for nodata in source.nodata),
        spectrum=Spectrum(np.concatenate(known)) if len(known) == len(fine) else Spectrum(),
        names=tuple(name for source in fine for name in (source.names or (source.path.stem,))),
        tags={},
        beside=tuple(file for source in fine for file in source.files),
    )


def _same(one: Grid, other: Grid) -> bool:
    if one.shape != other.shape or one.crs != other.crs:
        return False
    corners = ((0, 0), (one.width, 0), (0, one.height))
    moved = [np.subtract(~one.transform * (other.transform * corner), corner) for corner in corners]
    return bool(np.abs(moved).max() < SAME_PX)


def _natural(file: Path) -> list[tuple[int, str]]:
    """B2 before B10."""
    parts = re.findall(r"\d+|\D+", file.name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

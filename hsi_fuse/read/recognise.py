"""What a path stands for: the readers in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hsi_fuse.errors import ReadError
from hsi_fuse.read import bands, dlr, emit, envi, geotiff, prisma, sentinel2
from hsi_fuse.read.source import Source

Reader = Callable[[Path], Source | None]
READERS: tuple[Reader, ...] = (
    prisma.find,
    emit.find,
    dlr.find,
    sentinel2.find,
    bands.find,
    envi.find,
    geotiff.find,
)
"""Each looks whether a path is of its kind; the first that says so describes it. Wider ones come later."""


def describe(path: str | Path) -> Source:
    """Find out what a path stands for, without reading pixels.

    Raises
    ------
    ReadError
        If it is missing, not an image, or contradicts itself.
    """
    path = Path(path)
    if not path.exists():
        raise ReadError(f"{path} does not exist")
    for find in READERS:
        source = find(path)
        if source is not None:
            return source
    raise ReadError(
        f"{path} is a folder that holds no EnMAP, DESIS or Sentinel-2 product and no single-band rasters; "
        "name the image file in it"
    )

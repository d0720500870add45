"""The products -> files: row blocks in, a GeoTIFF, COG or ENVI pair out, complete or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Interleaving
from rasterio.windows import Window

from hsi_fuse.errors import HsiFuseWarning, WriteError
from hsi_fuse.files import atomic_files, check_output
from hsi_fuse.grid import Grid
from hsi_fuse.gtiff import (
    DEFLATE_LEVEL,
    TILE,
    describe,
    gdal,
    geometry,
    lasting_tags,
    profile,
    upper,
    verify,
    write_image,
)
from hsi_fuse.raster import Bands, Encoding, Raster
from hsi_fuse.write.encode import Encoder
from hsi_fuse.write.envi_header import envi_paths, header_text
from hsi_fuse.write.overviews import Overviews, factors_of

__all__ = ["Driver", "WriteSummary", "write_cube", "write_image"]

Rows = Callable[[int, int], NDArray[np.float32]]
OnRows = Callable[[int, int], None]
Driver = Literal["GTiff", "ENVI", "COG"]

CHUNK_BYTES = 16 << 20
NO_CACHE = 1 << 20
"""Of GDAL, bytes, while tiles are written that are whole. In a larger cache those of a small image wait for
all others, where one thread compresses them, and their order in the file would depend on that."""


@dataclass(frozen=True)
class WriteSummary:
    """What was written.

    Attributes
    ----------
    paths : tuple of Path
        The image first.
    clipped : int
        Values that did not fit the stored type (or fell on its nodata number) and were moved.
    nodata_fraction : float
        Share of pixels without a value in at least one good band.
    encoding : Encoding
        As stored.
    """

    paths: tuple[Path, ...]
    clipped: int
    nodata_fraction: float
    encoding: Encoding


def write_cube(
    path: str | Path,
    rows: Rows,
    grid: Grid,
    like: Raster | Bands,
    *,
    driver: Driver = "GTiff",
    encoding: Encoding | None = None,
    creation_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    block_rows: int | None = None,
    on_rows: OnRows | None = None,
) -> WriteSummary:
    """Write a fused cube in row blocks; it is never whole in memory.

    Parameters
    ----------
    path : path
        For ENVI the data file or its `.hdr`; both are written.
    rows : callable (start, stop) -> ndarray (band, stop - start, W), float32
        Physical values of all bands of `like`, in order, NaN where there is none. Called once for each row.
    grid : Grid
        Of the product, (H, W).
    like : Raster or Bands
        The hyperspectral image, or what is known of its bands: wavelengths, FWHM, good bands, names, tags.
    driver : "GTiff", "ENVI" or "COG"
        A COG stores bands interleaved by pixel with this GDAL.
    encoding : Encoding, optional
        How to store values; by default as `like` does.
    creation_options : mapping, optional
        GDAL creation options over the defaults (not for ENVI).
    overwrite : bool
    block_rows : int, optional
        Rows asked for at a time; by default about 16 MB of values.
    on_rows : callable (rows done, rows in all), optional

    Returns
    -------
    WriteSummary

    Raises
    ------
    WriteError
        If the output exists (without `overwrite`), cannot be written, or cannot hold the grid.

    Warns
    -----
    HsiFuseWarning
        If pixels have no value and the encoding has no nodata number: one is chosen.
    """
    encoder = Encoder.of(encoding or like.encoding)
    finals = envi_paths(Path(path)) if driver == "ENVI" else (Path(path),)
    for final in finals:
        check_output(final, overwrite)
    step = block_rows or rows_at_a_time(like.bands, grid.width)
    chunks = _Chunks(rows, grid, like, encoder, step, on_rows)
    with atomic_files(*finals) as parts:
        if driver == "ENVI":
            _write_envi(parts, chunks)
        elif driver == "COG":
            _write_cog(parts[0], chunks, creation_options or {})
        else:
            _write_gtiff(parts[0], chunks, creation_options or {}, factors_of(grid.shape))
    for final in finals:  # what GDAL noted about a file that was replaced
        final.with_name(final.name + ".aux.xml").unlink(missing_ok=True)
    if chunks.chose_nodata:
        warnings.warn(
            f"{finals[0].name}: the input names no nodata number for {encoder.encoding.dtype}; pixels "
            f"without values are stored as {encoder.encoding.nodata:g}, which is declared as nodata",
            HsiFuseWarning,
            stacklevel=2,
        )
    fraction = chunks.empty_pixels / (grid.width * grid.height)
    return WriteSummary(finals, chunks.clipped, fraction, chunks.stored_encoding)


def rows_at_a_time(bands: int, width: int) -> int:
    """Rows of about `CHUNK_BYTES` of float32 values."""
    return max(1, min(TILE, CHUNK_BYTES // (bands * width * 4)))


class _Chunks:
    """The cube as encoded row chunks, counting what happens to it on the way."""

    def __init__(
        self,
        rows: Rows,
        grid: Grid,
        like: Raster | Bands,
        encoder: Encoder,
        step: int,
        on_rows: OnRows | None,
    ) -> None:
        self.grid, self.like, self.encoder = grid, like, encoder
        self._rows, self._step, self._on_rows = rows, step, on_rows
        self.clipped = self.empty_pixels = 0
        self._missing = False

    @property
    def chose_nodata(self) -> bool:
        return self.encoder.reserved and self._missing

    @property
    def stored_encoding(self) -> Encoding:
        """As the file must declare it: a reserved nodata number only where it was needed."""
        e = self.encoder.encoding
        return e if self._missing or not self.encoder.reserved else Encoding(e.dtype, e.scale, e.offset)

    def within(self, first: int, last: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """(row, stored (band, rows, W)) of the chunks between two rows."""
        for start in range(first, last, self._step):
            stop = min(start + self._step, last)
            values = self._rows(start, stop)
            expected = (self.like.bands, stop - start, self.grid.width)
            if values.shape != expected:
                raise WriteError(
                    f"rows {start}..{stop} of the cube have shape {values.shape}, not {expected}"
                )
            missing = np.isnan(values)
            if missing.any():
                self._missing = True
                self.empty_pixels += int(missing[self.like.good_bands].any(axis=0).sum())
            stored, clipped = self.encoder(values)
            self.clipped += clipped
            yield start, stored
            if self._on_rows is not None:
                self._on_rows(stop, self.grid.height)


def _write_envi(parts: tuple[Path, ...], chunks: _Chunks) -> None:
    """Band interleaved by line: the only order in which row blocks are written straight through."""
    data, header = parts
    with data.open("wb") as file:
        for _, stored in chunks.within(0, chunks.grid.height):
            little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little.transpose(1, 0, 2)).data)  # (rows, band, W)
    text = header_text(chunks.like, chunks.grid, chunks.stored_encoding, lasting_tags(chunks.like))
    header.write_text(text, encoding="utf-8", newline="\n")


def _write_gtiff(part: Path, chunks: _Chunks, options: Mapping[str, str], factors: Sequence[int]) -> None:
    """`factors`: of the overviews it is to have."""
    encoding = chunks.encoder.encoding
    options = profile(encoding.dtype, options)
    grid, like = chunks.grid, chunks.like
    assert encoding.nodata is not None
    with gdal():
        with (
            rasterio.open(part, "w", count=like.bands, **geometry(grid), **options) as file,
            rasterio.Env(**({"GDAL_CACHEMAX": NO_CACHE} if _tiles_come_whole(file) else {})),
        ):
            overviews = Overviews.within(file, factors, encoding.nodata, part.parent)
            for top in range(0, grid.height, TILE):  # whole tiles, so that each is compressed once
                bottom = min(top + TILE, grid.height)
                strip = np.empty((like.bands, bottom - top, grid.width), options["dtype"])
                for start, stored in chunks.within(top, bottom):
                    strip[:, start - top : start - top + stored.shape[1]] = stored
                overviews.add(top, strip)
                file.write(strip, window=Window(0, top, grid.width, bottom - top))
            describe(file, like, chunks.stored_encoding)
        overviews.fill(part, chunks.stored_encoding.nodata)
        verify(part, grid)


def _tiles_come_whole(file: Any) -> bool:
    """Whether rows of `TILE` at a time fill whole tiles, as they do unless other ones were asked for."""
    return file.interleaving != Interleaving.pixel and TILE % file.block_shapes[0][0] == 0


def _write_cog(part: Path, chunks: _Chunks, options: Mapping[str, str]) -> None:
    """GDAL makes a COG only as a copy of another file: a plain one beside it."""
    plain = part.with_name(part.stem + ".plain.part")
    try:
        _write_gtiff(plain, chunks, {}, factors=())  # GDAL makes them for the copy
        defaults = {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": "512", "BIGTIFF": "IF_SAFER"}
        defaults |= {"LEVEL": DEFLATE_LEVEL}
        with gdal():
            rasterio.shutil.copy(str(plain), str(part), driver="COG", **{**defaults, **upper(options)})
            verify(part, chunks.grid)
    finally:
        plain.unlink(missing_ok=True)

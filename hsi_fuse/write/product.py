"""A kind of file that a run leaves beside its raster, and what its writer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hsi_fuse.pipeline import FusionResult
from hsi_fuse.raster import Encoding
from hsi_fuse.write.cube import Driver, WriteSummary

CompactDtype = Literal["float32", "int16"]


def nothing(result: FusionResult) -> None:
    """What a result lacks for a product that every result has."""


@dataclass(frozen=True)
class Job:
    """One run on its way to disk.

    Attributes
    ----------
    result : FusionResult
    output : Path
        Of the raster, complete by now; other files are made beside it.
    driver : "GTiff", "ENVI" or "COG"
        Of the raster.
    encoding : Encoding
        As which the raster was asked for.
    summary : WriteSummary
        What was stored of it.
    figures : mapping
        What the quality file holds.
    written : tuple of (Product, tuple of str)
        All products of this run and their file names.
    compact_dtype : "float32" or "int16"
        How the compact product keeps coefficients.
    """

    result: FusionResult
    output: Path
    driver: Driver
    encoding: Encoding
    summary: WriteSummary
    figures: Mapping[str, Any]
    written: tuple[tuple[Product, tuple[str, ...]], ...]
    compact_dtype: CompactDtype = "float32"


@dataclass(frozen=True)
class Product:
    """One kind of side product.

    Attributes
    ----------
    name : str
        By which it is asked for.
    endings : tuple of str
        Of its files; before them stands the raster's stem.
    write : callable (Job, paths)
        Writes the files; `paths` are in the order of `endings`.
    media_type : tuple of str
        Of the files (IANA), for catalogues.
    title : str
        What it is, in a few words.
    roles : tuple of str
        In a STAC item.
    always : bool
        Whether every run that has it writes it, asked or not.
    rare : bool
        Whether only runs of a special kind have it.
    lacks : callable (FusionResult) -> str or None
        Why there can be none of a result.
    """

    name: str
    endings: tuple[str, ...]
    write: Callable[[Job, tuple[Path, ...]], object]
    media_type: tuple[str, ...]
    title: str
    roles: tuple[str, ...] = ("data",)
    always: bool = False
    rare: bool = False
    lacks: Callable[[FusionResult], str | None] = nothing

    def paths(self, output: Path) -> tuple[Path, ...]:
        """Its files beside an output."""
        return tuple(output.with_name(output.stem + ending) for ending in self.endings)

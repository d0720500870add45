"""Which parts of a pair take part: a box, and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsi_fuse.raster import Raster
from hsi_fuse.read.guide import Guide, open_guide
from hsi_fuse.read.hsi import read_hsi
from hsi_fuse.read.mask import Mask


@dataclass(frozen=True)
class Parts:
    """What to take of a pair; by default all.

    Attributes
    ----------
    bounds : (left, bottom, right, top) or None
        Of the HSI, in its CRS; see `Grid.covering`.
    hsi_mask, guide_mask : Mask or None
        Pixels to treat as having no data.
    """

    bounds: tuple[float, float, float, float] | None = None
    hsi_mask: Mask | None = None
    guide_mask: Mask | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the masks."""
        return tuple(mask.store.path for mask in (self.hsi_mask, self.guide_mask) if mask is not None)

    def to_dict(self) -> dict[str, Any]:
        """All of it; JSON-ready."""
        masks = {"hsi_mask": self.hsi_mask, "guide_mask": self.guide_mask}
        words = {name: None if mask is None else mask.words for name, mask in masks.items()}
        return {"bounds": None if self.bounds is None else list(self.bounds), **words}

    def of(self, hsi: str | Path, guide: str | Path, wavelengths: str | Path | None) -> tuple[Raster, Guide]:
        """Open a pair; the guide first, since that is quick.

        Raises
        ------
        ReadError, GridError
            As `open_guide` and `read_hsi`.
        """
        reference = open_guide(guide, self.guide_mask)
        return read_hsi(hsi, wavelengths, bounds=self.bounds, mask=self.hsi_mask), reference

"""The README's picture: the scene that ships, interpolated and fused. `python -m benchmarks.picture`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hsi_fuse.pipeline import fuse
from hsi_fuse.preset import load_preset
from hsi_fuse.read import open_guide, read_hsi
from hsi_fuse.report.pictures import composite, rgb_bands, stretch_limits, view

ROOT = Path(__file__).parents[1]
ENLARGED = 3


def main() -> None:
    """Write docs/village.png."""
    scene = ROOT / "sample_scenes/village"
    result = fuse(read_hsi(scene / "hsi.hdr"), open_guide(scene / "guide.tif"), load_preset("fast"))
    good = result.hsi.good_bands
    assert result.hsi.wavelengths_nm is not None
    bands = rgb_bands(int(good.sum()), result.hsi.wavelengths_nm[good].tolist())
    ratio = result.problem.ratio
    valid = result.hsi.valid.repeat(ratio, 0).repeat(ratio, 1)
    limits = stretch_limits(view(result.estimate, bands), valid)
    before, after = (
        composite(view(e, bands), limits, valid) for e in (result.interpolation, result.estimate)
    )
    gap = np.full((before.shape[0], 4, 3), 255, np.uint8)
    both = np.concatenate([before, gap, after], 1)
    picture = Image.fromarray(both).resize((both.shape[1] * ENLARGED, both.shape[0] * ENLARGED), 0)
    picture.save(ROOT / "docs/village.png", optimize=True)


if __name__ == "__main__":
    main()

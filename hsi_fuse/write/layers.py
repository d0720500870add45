"""Layers on the product's grid that say how far it can be trusted: uncertainty, confidence, support.

Support (`*_support.tif`, `*_support.csv`): what of the product rests on inference. A value's fine detail was
seen by the reference only where its pixel *and* its band were. So two small files say it for all values:

`*_support.tif`, one byte for each pixel, with a colour table::

    0  no data
    1  no reference here: all bands are interpolated from the hyperspectral image
    2  towards the end of the reference: its detail fades out
    3  seen by the reference

`*_support.csv`, one line for each band of the product::

    band                  its number, from 1
    wavelength_nm         empty without wavelengths
    support               seen: a band of the reference responds to it (with more than 5 % of its largest
                          response); inferred: none does, its detail follows from what other bands of the
                          same spectra do; interpolated: it took no part (bad band)
    explained             share of its variance, at the hyperspectral image's resolution, that a linear
                          function of the reference's bands explains: how well inference can do. In an
                          inferred band with a low share little detail can be right.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hsi_fuse.overlap.extend import Kind
from hsi_fuse.physics import blur_down
from hsi_fuse.pipeline import FusionResult
from hsi_fuse.problem import Problem
from hsi_fuse.raster import Encoding
from hsi_fuse.sensors.sense import supported
from hsi_fuse.write.cube import write_cube, write_image
from hsi_fuse.write.product import Job

Paths = tuple[Path, ...]
NO_DATA, NO_GUIDE, FADING, SEEN = range(4)
SUPPORT_COLOURS = {
    NO_DATA: (0, 0, 0, 0),
    NO_GUIDE: (213, 94, 0, 255),
    FADING: (240, 228, 66, 255),
    SEEN: (0, 114, 178, 255),
}
SUPPORT_CLASSES = {
    NO_DATA: "no data",
    NO_GUIDE: "no reference here: interpolated",
    FADING: "detail of the reference fades out",
    SEEN: "seen by the reference",
}


def lacks_uncertainty(result: FusionResult) -> str | None:
    """Why there is none."""
    return None if result.uncertainty is not None else result.quality.figures["uncertainty"]["reason"]


def write_uncertainty(job: Job, paths: Paths) -> None:
    """A standard deviation for each value of the product, float32."""
    product = job.result.product
    encoding = Encoding("float32", nodata=float("nan"))
    write_cube(paths[0], product.sigma_rows, product.grid, job.result.hsi, encoding=encoding)


def lacks_guide(result: FusionResult) -> str | None:
    """A registered reference is part of the product: see `extent`."""
    return "the pair is registered" if result.over_guide is None else None


def write_guide(job: Job, paths: Paths) -> None:
    """The reference made hyperspectral on its own grid, stored as the product is."""
    made = job.result.over_guide
    assert made is not None
    write_cube(paths[0], made.rows, made.grid, job.result.hsi, encoding=job.encoding)


def lacks_kind(result: FusionResult) -> str | None:
    """Over the HSI's own footprint `support` tells the same."""
    return "the product has the HSI's footprint" if result.extended is None else None


def write_kind(job: Job, paths: Paths) -> None:
    """What stands behind each pixel of a product over more than the HSI: `extend.Kind`, one byte."""
    carried = job.result.extended
    assert carried is not None
    names = "; ".join(f"{kind.value} {kind.name.lower()}" for kind in Kind)
    write_image(paths[0], carried.kind[None], carried.grid, descriptions=(names,))


def write_confidence(job: Job, paths: Paths) -> None:
    """How far the reference is believed to show what the HSI shows, 0 (not used) to 1."""
    result = job.result
    confidence = result.alignment.confidence[None].astype(np.float32)
    valid = result.frame.valid_rows(0, result.grid.height)
    write_image(paths[0], confidence, result.grid, valid=valid, descriptions=("confidence",))


def write_support(job: Job, paths: Paths) -> None:
    """The two files that the module's docstring describes."""
    result = job.result
    classes = support_classes(result)
    tags = {f"CLASS_{number}": text for number, text in SUPPORT_CLASSES.items()}
    write_image(
        paths[0], classes[None], result.grid, descriptions=("support",), palette=SUPPORT_COLOURS, tags=tags
    )
    paths[1].write_text(_band_table(result), encoding="utf-8")


def support_classes(result: FusionResult) -> NDArray[np.uint8]:
    """Class of each pixel, (H, W)."""
    problem = result.problem
    trust = problem.fading.cpu().numpy()
    classes = np.where(trust <= 0, NO_GUIDE, np.where(trust < 1, FADING, SEEN)).astype(np.uint8)
    classes[~result.frame.valid_rows(0, result.grid.height)] = NO_DATA
    return classes


def _band_table(result: FusionResult) -> str:
    hsi = result.hsi
    seen, share = result.problem.sensor.seen.tolist(), explained(result.problem).tolist()
    places = {int(band): k for k, band in enumerate(np.flatnonzero(hsi.good_bands))}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["band", "wavelength_nm", "support", "explained"])
    for band in range(hsi.bands):
        where = "" if hsi.wavelengths_nm is None else f"{hsi.wavelengths_nm[band]:.6g}"
        k = places.get(band)
        said = ("interpolated", "") if k is None else ("seen" if seen[k] else "inferred", f"{share[k]:.3f}")
        table.writerow([band + 1, where, *said])
    return text.getvalue()


def explained(problem: Problem) -> torch.Tensor:
    """Share of each good band's variance that the blurred guide explains linearly, (n,); 0 without pixels."""
    psf, ratio = problem.sensor.psf, problem.ratio
    usable = supported(problem.guide_weight, problem.hsi_weight, psf, ratio)
    bands = problem.hsi[:, usable].double().cpu().T  # (N, n)
    guide = blur_down(problem.guide, psf, ratio)[:, usable].double().cpu().T  # (N, m)
    if len(bands) <= guide.shape[1] + 1:
        return torch.zeros(bands.shape[1])
    bands, guide = bands - bands.mean(0), guide - guide.mean(0)
    guide = guide / guide.norm(dim=0).clamp_min(1e-30)
    left = bands - guide @ torch.linalg.lstsq(guide, bands, driver="gelsd").solution
    share = 1 - left.square().sum(0) / bands.square().sum(0).clamp_min(1e-30)
    return share.clamp(0, 1)

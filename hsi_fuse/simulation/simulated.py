"""A simulated pair as files: simulate_pair(truth, protocol) -> SimulatedPair -> a folder for `run`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray

from hsi_fuse.errors import ReadError, WriteError
from hsi_fuse.files import check_output, staged
from hsi_fuse.grid import Grid
from hsi_fuse.gtiff import write_image
from hsi_fuse.raster import Encoding, Raster
from hsi_fuse.read.source import warn
from hsi_fuse.record import versions
from hsi_fuse.simulation.simulate import ObservedPair, Protocol, observe, window_of
from hsi_fuse.write import write_cube

HSI, HEADER, REFERENCE, TRUTH = "hsi.img", "hsi.hdr", "reference.tif", "truth.json"
FILES = (HSI, HEADER, REFERENCE, TRUTH)
"""What a simulated pair consists of."""


@dataclass(frozen=True)
class SimulatedPair:
    """A pair, and where its images lie on the ground.

    Attributes
    ----------
    pair : ObservedPair
    protocol : Protocol
    seed : int
    fine : Grid
        Of the truth that was observed: (H, W).
    guide : Grid
        Of the guide, as its georeferencing claims.
    truth : mapping
        Which part of the truth was observed: `window` (row, column, height and width in its pixels),
        `good_bands` (indices from 0) and `peak`, the value that 1 stands for.
    wavelengths_nm : ndarray (n,)
    fwhm_nm : ndarray (n,) or None
    """

    pair: ObservedPair
    protocol: Protocol
    seed: int
    fine: Grid
    guide: Grid
    truth: Mapping[str, Any]
    wavelengths_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64] | None

    @property
    def hsi(self) -> Raster:
        """What the imaging spectrometer saw, in units of the truth's peak."""
        values = self.pair.hsi.numpy()
        grid = coarsened(self.fine, self.pair.sensor.ratio)
        valid = np.ones(grid.shape, bool)
        return Raster(values, valid, grid, self.wavelengths_nm, self.fwhm_nm, encoding=Encoding("float32"))


def simulate_pair(truth: Raster, protocol: Protocol, seed: int = 0) -> SimulatedPair:
    """Observe an image, taken as the truth, by both instruments of a protocol.

    Parameters
    ----------
    truth : Raster
        Its good bands are observed. Where pixels have no value, only the largest rectangle without such.
    protocol : Protocol
    seed : int

    Raises
    ------
    ReadError
        The truth has no wavelengths, or does not see what the protocol's guide sees.
    GridError
        The truth is too small.

    Warns
    -----
    HsiFuseWarning
        The truth was cut to pixels with values, or has no georeferencing to be wrong about.
    """
    good = np.flatnonzero(truth.good_bands)
    if truth.wavelengths_nm is None:
        raise ReadError(
            "the truth has no wavelengths, which the reference's bands need; give --wavelengths FILE"
        )
    rows, columns = largest_rectangle(truth.valid)
    cube = torch.from_numpy(np.ascontiguousarray(truth.values[good, rows, columns]))  # (n, H0, W0)
    if cube.shape[1:] != truth.grid.shape:
        warn(
            f"the truth has pixels without values: {cube.shape[1]} x {cube.shape[2]} of its "
            f"{truth.grid.height} x {truth.grid.width} pixels are used"
        )
    wavelengths_nm = truth.wavelengths_nm[good]
    pair = observe(cube, wavelengths_nm, protocol, seed)
    top, left, height, width = window_of(protocol, cube.shape[1:])
    top, left = top + rows.start, left + columns.start
    fine = truth.grid.window(top, left, height, width)
    if not truth.grid.georeferenced:
        fine = replace(fine, transform=Affine.identity())
        if any(pair.claimed_shift_px):
            warn(
                "the truth has no georeferencing, so the reference's cannot be wrong as the protocol wants it"
            )
    window = {"row": top, "column": left, "height": height, "width": width}
    return SimulatedPair(
        pair,
        protocol,
        seed,
        fine,
        _claimed(fine, pair, truth.grid.georeferenced),
        {"window": window, "good_bands": good.tolist(), "peak": float(cube.max())},
        wavelengths_nm,
        None if truth.fwhm_nm is None else truth.fwhm_nm[good],
    )


def save_pair(simulated: SimulatedPair, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write `FILES` into a folder, which is made unless it is there; all of them or none.

    Images are float32 in units of the truth's peak, the reference NaN where it shows nothing. The JSON holds
    what no method is told: all of `ObservedPair` but the images, with `fine_to_reference` in pixels of the
    reference (columns, rows; corner-based, to 1e-6) for each pixel of the product.

    Returns
    -------
    list of Path
        The files, the HSI first.

    Raises
    ------
    WriteError
    """
    folder = Path(folder)
    finals = check_folder(folder, overwrite)
    with _made(folder), staged(*finals) as part:
        hsi = simulated.hsi
        write_cube(part / HSI, lambda start, stop: hsi.values[:, start:stop], hsi.grid, hsi, driver="ENVI")
        write_image(
            part / REFERENCE,
            simulated.pair.guide.numpy(),
            simulated.guide,
            valid=simulated.pair.guide_valid.numpy(),
            descriptions=_band_names(simulated.protocol),
        )
        (part / TRUTH).write_text(json.dumps(facts(simulated), allow_nan=False) + "\n", encoding="utf-8")
    return list(finals)


def check_folder(folder: str | Path, overwrite: bool = False) -> list[Path]:
    """The files that `save_pair` would write; fails before the work rather than after it.

    Raises
    ------
    WriteError
        One of them exists (without `overwrite`), or the folder can neither be used nor made.
    """
    folder = Path(folder)
    if folder.is_dir():
        for name in FILES:
            check_output(folder / name, overwrite)
    elif folder.exists():
        raise WriteError(f"{folder} is a file; name a folder for the pair")
    else:
        check_output(folder, overwrite)
    return [folder / name for name in FILES]


def facts(simulated: SimulatedPair) -> dict[str, Any]:
    """Everything about a simulated pair but its images, JSON-ready."""
    pair, protocol = simulated.pair, simulated.protocol
    columns, rows = np.round(pair.fine_to_guide, 6).tolist()
    return {
        "schema": 1,
        "protocol": protocol.name,
        "seed": simulated.seed,
        "ratio": protocol.ratio,
        "snr_db": {"hsi": _finite(protocol.snr_hsi_db), "reference": _finite(protocol.snr_guide_db)},
        "truth": dict(simulated.truth),
        "wavelengths_nm": simulated.wavelengths_nm.tolist(),
        "srf": pair.sensor.srf.tolist(),
        "psf": pair.sensor.psf.tolist(),
        "hsi_noise": pair.hsi_noise.tolist(),
        "reference_noise": pair.guide_noise.tolist(),
        "georeferenced": pair.georeferenced,
        "claimed_shift_px": list(pair.claimed_shift_px),
        "fine_to_reference": {"columns": columns, "rows": rows},
        "objects": _run_lengths(pair.objects),
        "occluded": _run_lengths(pair.occluded),
        "changed": _run_lengths(pair.changed),
        "versions": versions(),
    }


def coarsened(grid: Grid, ratio: int) -> Grid:
    """The grid of pixels `ratio` times larger; pixel numbers stay pixel numbers without georeferencing."""
    transform = grid.transform * Affine.scale(ratio) if grid.georeferenced else grid.transform
    return Grid(grid.crs, transform, grid.width // ratio, grid.height // ratio)


def largest_rectangle(valid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The largest rectangle of valid pixels, the first of equals: its rows and columns."""
    if valid.all():
        return slice(0, valid.shape[0]), slice(0, valid.shape[1])
    best, found = 0, (slice(0, 0), slice(0, 0))
    run = np.zeros(valid.shape[1], int)  # valid pixels upwards from the current row
    for bottom, row in enumerate(valid):
        run = np.where(row, run + 1, 0)
        for left in range(len(run)):
            heights = np.minimum.accumulate(run[left:])
            areas = heights * np.arange(1, len(heights) + 1)
            width = int(areas.argmax())
            if areas[width] > best:
                best, height = int(areas[width]), int(heights[width])
                found = slice(bottom + 1 - height, bottom + 1), slice(left, left + width + 1)
    return found


def _claimed(fine: Grid, pair: ObservedPair, georeferenced: bool) -> Grid:
    """The guide's grid as it says: what lies at fine pixel q is in its pixel q + claimed shift."""
    if not georeferenced:
        return fine
    if not pair.georeferenced:
        return Grid(None, Affine.identity(), fine.width, fine.height)
    columns, rows = pair.claimed_shift_px
    return replace(fine, transform=fine.transform * Affine.translation(-columns, -rows))


def _band_names(protocol: Protocol) -> list[str]:
    if protocol.guide_table is not None:
        return [f"band {i + 1}" for i in range(len(protocol.guide_table.responses))]
    return [f"{lower:g}-{upper:g} nm" for lower, upper in protocol.guide_edges_nm]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _run_lengths(labels: NDArray[Any]) -> list[list[int]]:
    """Labels (H, W) as runs of one value, row after row: [value, how many], ..."""
    flat = labels.ravel().astype(int)
    starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
    runs: list[list[int]] = np.stack([flat[starts], np.diff(np.r_[starts, flat.size])], 1).tolist()
    return runs


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder that is not there; it goes again if what is done with it fails."""
    if folder.is_dir():
        yield
        return
    try:
        folder.mkdir()
    except OSError as error:
        raise WriteError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise

"""Problem and Estimate: all that a method sees and returns. Tensor-land: no paths, no CRS, no truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.errors import SolveError
from hsi_fuse.feather import feather
from hsi_fuse.physics import blur_down
from hsi_fuse.progress import OnStep as OnStep
from hsi_fuse.progress import silent as silent
from hsi_fuse.sensor import Sensor

if TYPE_CHECKING:
    from hsi_fuse.overlap.unregistered import Unmixed


@dataclass(frozen=True)
class NativeGuide:
    """The guide where it has no place on the target grid: on its own, in pixels of the target's size.

    Attributes
    ----------
    values : Tensor (m, H, W)
        As the sensor's SRF and offset give it.
    weight : Tensor (H, W)
        0 (no data) to 1.
    """

    values: Tensor
    weight: Tensor

    def degraded(self, psf: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
        """Seen through the PSF at the HSI's pixel size: (m, h, w), and its weight (h, w).

        The weight is 0 where any of the PSF sees no data.
        """
        height, width = (size // ratio * ratio for size in self.weight.shape)
        weight = self.weight[:height, :width]
        low = blur_down(self.values[:, :height, :width], psf, ratio)
        return low, (blur_down((weight > 0).to(low)[None], psf, ratio)[0] > 0.99).to(low)


@dataclass(frozen=True)
class Problem:
    """One scene, ready to be solved.

    Attributes
    ----------
    hsi : Tensor (n, h, w)
        Good bands of the hyperspectral image, physical units, 0 where `hsi_weight` is 0.
    hsi_weight : Tensor (h, w)
        0 (no data) to 1.
    guide : Tensor (m, H, W)
        The reference resampled on the target grid, H = ratio h, W = ratio w; 0 where `guide_weight` is 0.
    guide_weight : Tensor (H, W)
        validity x overlap x confidence, 0 to 1. 0 means "no guide here".
    sensor : Sensor
    hsi_noise : Tensor (n,)
        Standard deviation of the noise of each HSI band.
    guide_noise : Tensor (m,)
        Standard deviation of guide minus SRF-mixed scene: sensor noise and model error.
    seed : int
    position_error : float
        RMS error of the guide's position against the HSI, in HSI pixels.
    native : NativeGuide, optional
        The guide of a pair that is not registered; `guide_weight` is then 0 everywhere.
    faded : Tensor (H, W), optional
        `fading` of a part of a scene, where the scene beyond the part is known too.
    """

    hsi: Tensor
    hsi_weight: Tensor
    guide: Tensor
    guide_weight: Tensor
    sensor: Sensor
    hsi_noise: Tensor
    guide_noise: Tensor
    seed: int = 0
    position_error: float = 0.0
    native: NativeGuide | None = None
    faded: Tensor | None = None

    def __post_init__(self) -> None:
        n, h, w = self.hsi.shape
        m, height, width = self.guide.shape
        s = self.sensor.ratio
        wanted = {
            "hsi_weight": (h, w),
            "guide": (m, h * s, w * s),
            "guide_weight": (height, width),
            "hsi_noise": (n,),
            "guide_noise": (m,),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape:
                raise SolveError(f"problem: {name} must have shape {shape}, got {tuple(value.shape)}")
            if not finite(value):
                raise SolveError(f"problem: {name} holds values that are not finite")
        if self.sensor.srf.shape != (m, n):
            raise SolveError(f"problem: SRF must have shape {(m, n)}, got {tuple(self.sensor.srf.shape)}")
        if not finite(self.hsi):
            raise SolveError("problem: hsi holds values that are not finite")

    @property
    def ratio(self) -> int:
        """Fine pixels per HSI pixel along one axis."""
        return self.sensor.ratio

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.hsi.device

    @property
    def mean_spectrum(self) -> Tensor:
        """Mean (n,) of the HSI's pixels with data; no copy of them is made."""
        return self.hsi.sum((1, 2)) / (self.hsi_weight > 0).sum().clamp_min(1)

    @cached_property
    def fading(self) -> Tensor:
        """The guide's weight, which falls to 0 smoothly towards where the guide ends (`feather`): (H, W)."""
        if self.faded is not None:
            return self.faded
        return feather(self.guide_weight, self.hsi_weight, self.ratio)


def finite(values: Tensor) -> bool:
    """Whether all of a tensor is; of images one after the other, as the question takes copies.

    Where the sum is, all of it is: a ninth of the time.
    """
    return all(
        bool(part.sum().isfinite()) or bool(part.isfinite().all())
        for part in (values if values.ndim > 2 else (values,))
    )


def window(problem: Problem, rows: tuple[int, int], columns: tuple[int, int]) -> Problem:
    """A part of a problem, by HSI pixels (first, last)."""
    s = problem.ratio
    coarse = slice(*rows), slice(*columns)
    fine = tuple(slice(part.start * s, part.stop * s) for part in coarse)
    return replace(
        problem,
        hsi=problem.hsi[:, *coarse],
        hsi_weight=problem.hsi_weight[coarse],
        guide=problem.guide[:, *fine],
        guide_weight=problem.guide_weight[fine],
        faded=None if problem.faded is None else problem.faded[fine],
    )


class Cube(Protocol):
    """A high-resolution cube as those see it who look at it: never whole.

    `Estimate` is one in factors; `StreamedCube` (`cube.py`) one that somebody else made.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, H, W)."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop-1, (n, stop - start, W)."""
        ...

    def parts(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """The rows of one range (start, stop) after the other: what lies in a file is opened once for all."""
        ...

    def pending(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Callable[[], Tensor]]:
        """`parts` that are still to be made, by a thread of the caller's choice; what is read, is read."""
        ...

    def mixed(self, matrix: Tensor, offset: Tensor | None = None) -> Cube:
        """The cube seen through linear combinations of its bands: matrix (m, n), offset (m,)."""
        ...

    def degraded(self, psf: Tensor, ratio: int) -> Tensor:
        """The cube at the HSI's resolution, (n, h, w)."""
        ...

    def averaged(self, step: int, bands: Sequence[int] | None = None) -> Tensor:
        """Means of step x step pixels of some bands or all, (bands, H // step, W // step)."""
        ...


@dataclass(frozen=True)
class Estimate:
    """A high-resolution cube in factors, never as a cube: Z = basis @ coefficients + mean.

    Attributes
    ----------
    basis : Tensor (n, k)
    mean : Tensor (n,)
    coefficients : Tensor (k, H, W)
    spread : Tensor (k, H, W), optional
        Half the difference of two estimates of which this is the mean, in coefficients: where it is large,
        what the data leave open is (`uncertainty.py`). None where the method has no second opinion.
    """

    basis: Tensor
    mean: Tensor
    coefficients: Tensor
    spread: Tensor | None = None

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start..stop-1 of the cube, (n, stop - start, W). The only access to it."""
        block = self.coefficients[:, start:stop]  # (k, r, W)
        rows = block.new_empty(len(self.basis), *block.shape[1:])
        # the mean is one factor more: added by itself, it takes longer than the product
        basis, one = torch.cat([self.basis, self.mean[:, None]], 1), block.new_ones(1, block.shape[2])
        for i in range(block.shape[1]):  # one at a time: rounding then does not depend on the block
            torch.mm(basis, torch.cat([block[:, i], one]), out=rows[:, i])
        return rows

    def parts(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Tensor]:
        """The rows of one range (start, stop) after the other."""
        return (self.rows(*each) for each in ranges)

    def pending(self, ranges: Iterable[tuple[int, int]]) -> Iterator[Callable[[], Tensor]]:
        """`parts` that are still to be made."""
        return (partial(self.rows, *each) for each in ranges)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, H, W) of the cube that the factors stand for."""
        return self.basis.shape[0], self.coefficients.shape[1], self.coefficients.shape[2]

    def mixed(self, matrix: Tensor, offset: Tensor | None = None) -> Estimate:
        """M (basis A + mean) = (M basis) A + M mean: m bands, still in factors."""
        matrix = matrix.to(self.basis)
        level = matrix @ self.mean
        level = level if offset is None else level + offset
        return replace(self, basis=matrix @ self.basis, mean=level, spread=None)

    @property
    def finite(self) -> bool:
        """Whether all of its coefficients are."""
        return all(bool(part.all()) for part in self.seen(torch.isfinite))

    def degraded(self, psf: Tensor, ratio: int) -> Tensor:
        """D B (basis A + mean) = basis (D B A) + mean, since the PSF sums to 1: no fine cube is formed."""
        low = torch.cat(list(self.seen(lambda image: blur_down(image, psf, ratio))))  # (k, h, w)
        return Estimate(self.basis, self.mean, low).rows(0, low.shape[1])

    def averaged(self, step: int, bands: Sequence[int] | None = None) -> Tensor:
        """Of basis A + mean, basis (A averaged) + mean."""
        few = slice(None) if bands is None else list(bands)
        means = self.coefficients  # not copied as they are: they may be as large as a disk
        if step > 1:
            means = torch.cat(list(self.seen(lambda image: averaged(image, step))))
        reduced = replace(self, basis=self.basis[few], mean=self.mean[few], coefficients=means, spread=None)
        return reduced.rows(0, means.shape[1])

    def seen(self, by: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """The coefficients as something sees them that takes one at a time, (1, H, W) -> (1, p, q)."""
        return (by(image[None]) for image in self.coefficients)


def averaged(image: Tensor, step: int) -> Tensor:
    """Means of step x step pixels of (c, H, W), a channel at a time."""
    return torch.cat([F.avg_pool2d(channel[None], step) for channel in image]) if step > 1 else image


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back.

    Attributes
    ----------
    estimate : Estimate
    verdict : mapping
        Figures that explain what the stage did: `kept` (bool) and whatever else it measured.
    history : sequence of mappings
        One entry for each recorded step of a training, JSON-ready.
    sensor : Sensor, optional
        What the stage learned in place of the problem's, if it is the better one; None: the problem's stands.
    unmixed : Unmixed, optional
        The native guide made hyperspectral, of a stage that did so.
    flow : Tensor (2, H, W), optional
        Where the stage found the guide to lie: what belongs at fine pixel q is at q + flow(q); columns, rows.
    floor : Estimate, optional
        Stage `map`'s answer to the same problem, of a stage that came by it on its way.
    """

    estimate: Estimate
    verdict: Mapping[str, object] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    sensor: Sensor | None = None
    unmixed: Unmixed | None = None
    flow: Tensor | None = None
    floor: Estimate | None = None


Moved = TypeVar("Moved", Problem, Estimate, Sensor, NativeGuide)


def on_device(value: Moved, device: torch.device) -> Moved:
    """The same with its tensors on a device."""
    parts: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            parts[name] = part.to(device)
        if isinstance(part, Sensor):
            parts[name] = on_device(part, device)
        if isinstance(part, NativeGuide):
            parts[name] = on_device(part, device)
    return replace(value, **parts)


class Stage(Protocol):
    """One method. A frozen dataclass whose fields are its hyperparameters."""

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Improve `start` on `problem`."""
        ...

"""Scenes that do not fit into memory: a preset's stages on overlapping blocks of HSI pixels.

A stage that can be divided learns from a sample of the scene (`sample`) and is then applied to one block
after another. Blocks overlap; what two of them say of a pixel is averaged with weights that change steadily
from one to the other.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hsi_fuse.errors import PresetError, WriteError
from hsi_fuse.physics import psf_padding
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult, window
from hsi_fuse.scratch import Scratch
from hsi_fuse.subspace import Subspace, problem_subspace
from hsi_fuse.threads import hand_back_memory, in_turn

DEFAULT_MEMORY = 8 << 30
"""Bytes, where none are given: a constant, so that a scene's blocks are the same on every machine."""
PROGRAM = 600 << 20
"""Bytes of python, torch and what else is loaded."""
FLOATS_PER_FINE_PIXEL = 400
"""Float32 values that a stage holds at its peak for each fine pixel of a block, measured (24 dimensions)."""
GUIDE_FLOATS, HELD_FLOATS = 14, 7
"""Float32 values for each fine pixel of the scene: a guide of four bands as it was read and as it was
resampled, their weights, and what registration and assessment make of them; and what is left of it while
blocks are solved, the resampled guide, its weight and its confidence."""
BLOCK_PX = 1088
"""Largest side of what is solved at a time, fine pixels: larger blocks only cost memory."""
HALO_HSI_PX = 5
"""Beyond a block's own pixels: from four on more changes nothing (docs/lab-notes.md)."""
FADING_HSI_PX = 10
"""Beyond them the guide's end still tells in its weight: `feather` reaches nine."""
BLEND_HSI_PX = 2
"""Over which, to either side of their border, one block gives way to the next."""
REACHES = FADING_HSI_PX, HALO_HSI_PX, BLEND_HSI_PX
SMALLEST_HSI_PX = 32
SAMPLE_TILES, SAMPLE_TILE_HSI_PX = 4, 32
"""Most tiles along each axis of the sample, and their largest side."""
SAMPLE_PX = 512
"""Largest side of the sample, fine pixels."""

Part = Callable[[Problem], StageResult]
Span = tuple[int, int]
"""First and last, as of a slice."""


@runtime_checkable
class Divisible(Protocol):
    """A stage that can be learned from a sample of a scene and applied to parts of it."""

    dimensions: int

    def learn(self, scene: Problem, subspace: Subspace, on_step: OnStep) -> Part:
        """The stage for parts of `scene`, whose estimates all have the subspace's factors."""
        ...


@dataclass(frozen=True)
class Stored:
    """Values in a file, mapped into memory; `let_go` as of `Scratch`."""

    values: Tensor
    let_go: Callable[[], None]


@dataclass(frozen=True)
class StoredEstimate(Estimate):
    """An estimate whose coefficients lie in a file; after each look at them their pages are let go.

    Attributes
    ----------
    let_go : callable
    """

    let_go: Callable[[], None] = field(kw_only=True)

    def rows(self, start: int, stop: int) -> Tensor:
        """As of any estimate."""
        rows = super().rows(start, stop)
        self.let_go()
        return rows

    def seen(self, by: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """As of any estimate."""
        for image in super().seen(by):
            yield image
            self.let_go()


@dataclass(frozen=True)
class Memory:
    """What a run may use.

    Attributes
    ----------
    limit : int
        Bytes; pages of mapped files, which the system takes back when it must, are not counted.
    folder : Path or None
        Where the factors of a scene in blocks go; None: the system's folder for temporary files.
    spread : bool
        Whether a scene in blocks keeps what uncertainty is made of.
    """

    limit: int = DEFAULT_MEMORY
    folder: Path | None = None
    spread: bool = True

    def block_hsi_px(self, shape: Sequence[int], ratio: int) -> int | None:
        """Side of the blocks of an HSI of (n, h, w), HSI pixels; None where it is its own sample.

        Raises
        ------
        PresetError
            Not even small blocks would fit.
        """
        bands, height, width = shape
        if is_small(height, width, ratio):
            return None
        each = 4 * FLOATS_PER_FINE_PIXEL * ratio**2
        # the sample must fit as a block does
        least = max(SMALLEST_HSI_PX + 2 * HALO_HSI_PX, SAMPLE_PX // ratio)
        wanted = inputs_bytes(shape, ratio) + each * least**2
        if self.limit < wanted:
            raise PresetError(
                f"--max-memory {self.limit / 2**30:.3g}G is too little for {bands} bands of {height} x "
                f"{width} pixels at ratio {ratio}: it takes about {math.ceil(10 * wanted / 2**30) / 10:g}G"
            )
        # two at a time, each on a thread of its own, are solved much sooner than one after the other
        side = math.isqrt((self.limit - held_bytes(shape, ratio)) // (2 * each))
        return max(min(side, BLOCK_PX // ratio), least) - 2 * HALO_HSI_PX

    def side_by_side(self, shape: Sequence[int], ratio: int, side: int) -> int:
        """How many blocks of that side, HSI pixels, may be solved at a time; one, where not even one fits."""
        each = 4 * FLOATS_PER_FINE_PIXEL * ratio**2 * (side + 2 * HALO_HSI_PX) ** 2
        return max((self.limit - held_bytes(shape, ratio)) // each, 1)

    def holds(self, shape: Sequence[int], ratio: int) -> bool:
        """Whether an HSI of (n, h, w) could be solved as a whole."""
        whole = 4 * FLOATS_PER_FINE_PIXEL * ratio**2 * shape[1] * shape[2]
        return inputs_bytes(shape, ratio) + whole <= self.limit

    def factors(self, count: int, height: int, width: int) -> Stored:
        """Zeros (count, height, width), float32, in a file that ends with the process.

        Raises
        ------
        WriteError
            The folder's disk has no room for them.
        """
        try:
            kept = Scratch.zeros((count, height, width), np.float32, self.folder)
        except OSError as error:
            where = self.folder or Path(tempfile.gettempdir())
            raise WriteError(
                f"no room in {where} for {4 * count * height * width / 2**30:.1f} GiB, the scene's factors "
                f"while it is solved ({error.strerror}): free some, or write the product to another disk"
            ) from error
        return Stored(torch.from_numpy(kept.values), kept.let_go)


def peak_bytes(shape: Sequence[int], ratio: int, threads: int = 1, limit: int = DEFAULT_MEMORY) -> int:
    """About the peak of a run in blocks, of an HSI of (n, h, w); pages of mapped files are not counted.

    Each thread solves a block, where the `limit` allows that many.
    """
    held, whole = held_bytes(shape, ratio), 4 * FLOATS_PER_FINE_PIXEL * ratio**2 * shape[1] * shape[2]
    block = min(whole, 4 * FLOATS_PER_FINE_PIXEL * BLOCK_PX**2)
    blocks = min(max(min(threads, (limit - held) // block), 1) * block, whole)
    return max(held + blocks, inputs_bytes(shape, ratio))


def inputs_bytes(shape: Sequence[int], ratio: int) -> int:
    """What a scene takes before and after its blocks are solved: an HSI of (n, h, w), and the guide."""
    return _bytes_of(shape, ratio, GUIDE_FLOATS)


def held_bytes(shape: Sequence[int], ratio: int) -> int:
    """What is held of it beside the blocks that are being solved."""
    return _bytes_of(shape, ratio, HELD_FLOATS)


def _bytes_of(shape: Sequence[int], ratio: int, floats: int) -> int:
    """Of the program, an HSI of (n, h, w) and so many values a fine pixel."""
    bands, height, width = shape
    return PROGRAM + 4 * height * width * (bands + floats * ratio**2)


@dataclass(frozen=True)
class Block:
    """A part of a scene in HSI pixels: (first, last) of rows and columns.

    `own` is what it stands for, `around` where the guide must be known, `seen` what it is solved on, `said`
    where its answer counts.
    """

    own: tuple[Span, Span]
    around: tuple[Span, Span]
    seen: tuple[Span, Span]
    said: tuple[Span, Span]

    def of(self, scene: Problem) -> Problem:
        """What it is solved on; the guide fades as it does in the scene."""
        around = window(scene, *self.around)
        inner = [(a - start, b - start) for (start, _), (a, b) in zip(self.around, self.seen, strict=True)]
        return window(replace(around, faded=around.fading), *inner)


def layout(height: int, width: int, side: int) -> Iterator[Block]:
    """Blocks of about one size, at most `side` HSI pixels, row by row."""
    spans = []
    for size in (height, width):
        count = -(-size // side)
        edges = [round(i * size / count) for i in range(count + 1)]
        spans.append(list(pairwise(edges)))
    for rows, columns in product(*spans):
        yield Block((rows, columns), *(_grown(rows, columns, by, height, width) for by in REACHES))


def _grown(rows: Span, columns: Span, by: int, height: int, width: int) -> tuple[Span, Span]:
    """Spans that reach further to both sides, within the scene."""
    return (max(rows[0] - by, 0), min(rows[1] + by, height)), (
        max(columns[0] - by, 0),
        min(columns[1] + by, width),
    )


def sample(problem: Problem) -> Problem:
    """Tiles from all over a scene, side by side, as one problem; the scene itself where it is no larger.

    Between the tiles lie pixels without data, as wide as the PSF reaches, so that no tile sees another.
    """
    s, psf = problem.ratio, problem.sensor.psf
    side, tiles = _tiles(s)
    gap = -(-max(psf_padding(len(psf), s), 0) // s) + 1
    height, width = problem.hsi_weight.shape
    if is_small(height, width, s):
        return problem
    down, across = _spread(height, tiles, side), _spread(width, tiles, side)
    if len(down) < tiles:  # a flight line: all of its width, more tiles along it
        across = _spread(width, tiles**2 // len(down), side)
    elif len(across) < tiles:
        down = _spread(height, tiles**2 // len(across), side)
    lines = [_joined([_rimmed(window(problem, r, c), gap) for c in across], -1) for r in down]
    return _joined(lines, -2)


def _tiles(ratio: int) -> tuple[int, int]:
    """Side of the sample's tiles, HSI pixels, and how many there are along an axis."""
    side = max(min(SAMPLE_TILE_HSI_PX, SAMPLE_PX // ratio), 1)
    return side, max(min(SAMPLE_TILES, SAMPLE_PX // (side * ratio)), 1)


def is_small(height: int, width: int, ratio: int) -> bool:
    """Whether a scene is no larger than its sample would be, and is solved as a whole; in HSI pixels."""
    side, tiles = _tiles(ratio)
    return height * width <= (tiles * side) ** 2


def _spread(size: int, count: int, side: int) -> list[Span]:
    """Tiles spread evenly along an axis, as many as fit side by side, at most `count`."""
    side = min(side, size)
    count = min(count, size // side)
    starts = [round((i + 0.5) * size / count - side / 2) for i in range(count)]
    return [(start, start + side) for start in starts]


def _rimmed(part: Problem, gap: int) -> Problem:
    """A part with pixels without data after its last row and column."""
    coarse, fine = (0, gap, 0, gap), (0, gap * part.ratio, 0, gap * part.ratio)
    pad = torch.nn.functional.pad
    return replace(
        part,
        hsi=pad(part.hsi, coarse),
        hsi_weight=pad(part.hsi_weight, coarse),
        guide=pad(part.guide, fine),
        guide_weight=pad(part.guide_weight, fine),
    )


def _joined(parts: Sequence[Problem], axis: int) -> Problem:
    """Problems of one scene side by side."""
    return replace(
        parts[0],
        hsi=torch.cat([part.hsi for part in parts], axis),
        hsi_weight=torch.cat([part.hsi_weight for part in parts], axis),
        guide=torch.cat([part.guide for part in parts], axis),
        guide_weight=torch.cat([part.guide_weight for part in parts], axis),
    )


def by_blocks(stage: Divisible, problem: Problem, side: int, memory: Memory, on_step: OnStep) -> StageResult:
    """Run a stage block by block, as many at a time as there are threads and memory allows.

    Small products of matrices, of which a block's solution is made, gain little from a second thread; blocks
    side by side gain all of it. The answer is the same.

    Parameters
    ----------
    stage : Divisible
    problem : Problem
    side : int
        Largest side of a block, HSI pixels.
    memory : Memory
        Keeps the factors.
    on_step : callable
    """
    hand_back_memory()  # of what came before: blocks take what is left
    subspace = problem_subspace(problem, stage.dimensions)
    apply = stage.learn(sample(problem), subspace, on_step)
    height, width = problem.guide_weight.shape
    blocks = list(layout(height // problem.ratio, width // problem.ratio, side))
    maps: dict[str, Stored] = {}
    verdict: dict[str, object] = {}
    history: Sequence[Mapping[str, float]] = ()
    iterations = 0

    def solved(block: Block) -> StageResult | None:
        part = block.of(problem)
        return apply(part) if bool((part.hsi_weight > 0).any()) else None  # no data, no product

    most = memory.side_by_side(problem.hsi.shape, problem.ratio, side) if problem.device.type == "cpu" else 1
    most = min(most, len(blocks))  # a single one has all threads
    for number, (block, result) in enumerate(zip(blocks, in_turn(solved, blocks, most), strict=True)):
        on_step("blocks", number, len(blocks), 0.0)
        if result is None:
            continue
        found = {"coefficients": result.estimate.coefficients}
        if result.estimate.spread is not None and memory.spread:
            found["spread"] = result.estimate.spread
        for key, values in found.items():
            if key not in maps:
                maps[key] = memory.factors(len(values), height, width)
            _add(maps[key], values, block, problem.ratio)
        verdict, history = dict(result.verdict), result.history
        iterations += int(str(verdict.get("cg_iterations", 0)))
    on_step("blocks", len(blocks), len(blocks), 0.0)
    hand_back_memory()
    spread = maps["spread"].values if "spread" in maps else None
    kept = maps["coefficients"]
    estimate = StoredEstimate(subspace.basis, subspace.mean, kept.values, spread, let_go=kept.let_go)
    verdict |= {"cg_iterations": iterations, "blocks": len(blocks)}
    return StageResult(estimate, verdict, history)


def _add(whole: Stored, values: Tensor, block: Block, ratio: int) -> None:
    """Add a block's answer (c, H', W') to (c, H, W) under its weight."""
    places, inner, weights = [], [], []
    for axis in (0, 1):
        (first, last), (start, _) = block.said[axis], block.seen[axis]
        places.append(slice(first * ratio, last * ratio))
        inner.append(slice((first - start) * ratio, (last - start) * ratio))
        size = whole.values.shape[axis + 1]
        weights.append(_weight(block.own[axis], block.said[axis], size // ratio, ratio).to(whole.values))
    weight = weights[0][:, None] * weights[1]
    for image, said in zip(whole.values, values[:, *inner].to(weight.device), strict=True):
        image[*places] += said * weight
        whole.let_go()  # with each page that is read the system shows sixteen


def _weight(own: tuple[int, int], said: tuple[int, int], size: int, ratio: int) -> Tensor:
    """Weight of the fine pixels of `said` along one axis: those of neighbouring blocks add up to 1."""
    at = torch.arange(said[0] * ratio, said[1] * ratio, dtype=torch.float64) + 0.5
    weight = torch.ones_like(at)
    reach = BLEND_HSI_PX * ratio
    if own[0] > 0:
        weight = weight * ((at - own[0] * ratio + reach) / (2 * reach)).clamp(0, 1)
    if own[1] < size:
        weight = weight * ((own[1] * ratio + reach - at) / (2 * reach)).clamp(0, 1)
    return weight

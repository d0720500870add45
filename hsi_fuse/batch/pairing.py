"""Which reference belongs to which hyperspectral image, and why."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hsi_fuse.batch.discover import Image
from hsi_fuse.errors import PresetError, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.planning import LEAST_RATIO, pixel_ratio

LEAST_OVERLAP = 0.05
"""Share of the HSI's footprint that a reference must cover."""
LATTICE = 17
"""Points along each axis at which the footprint is looked up."""
DAYS = 30.0
"""Time apart after which its say is halved."""
WEIGHT = 0.5
"""Of time, and of the name, where full coverage counts 1."""
CLOSE = 0.05
"""Difference in score below which a choice is doubtful."""


@dataclass(frozen=True)
class Match:
    """A reference that may belong to an HSI.

    Attributes
    ----------
    reference : Image
    overlap : float or None
        Share of the HSI's footprint that it covers; None where either has no georeferencing.
    days : float or None
        Between the acquisitions; None where either names no time.
    shared : tuple of str
        Parts of the names that both have and not every reference has.
    score : float
    why : str
    """

    reference: Image
    overlap: float | None
    days: float | None
    shared: tuple[str, ...]
    score: float
    why: str


@dataclass(frozen=True)
class Pairing:
    """An HSI and its reference.

    Attributes
    ----------
    hsi : Image
    reference : Image or None
        None where no reference belongs to it.
    why : str
    alternatives : tuple of Match
        The others that could be, the best first.
    """

    hsi: Image
    reference: Image | None
    why: str
    alternatives: tuple[Match, ...] = ()


def pair_up(
    hsis: Sequence[Image], references: Sequence[Image], root: Path, pattern: str | None = None
) -> tuple[Pairing, ...]:
    """Find a reference for each HSI.

    A reference comes into question where its pixels are finer and it covers a part of the HSI's footprint;
    where georeferencing is missing, its name must have a part in common with the HSI's that other references
    lack, unless there is but one of each. The best has the highest sum of coverage (0 to 1), nearness in
    time and likeness of the names (each 0 to 0.5). One reference may serve several HSIs.

    Parameters
    ----------
    hsis, references : sequence of Image
    root : Path
        Names count from there, folders included.
    pattern : str, optional
        A regular expression with a group, looked for in these names: only images for which the group holds
        the same text belong together.

    Raises
    ------
    PresetError
        The pattern is not valid or has no group.
    """
    key = _key(pattern)
    words = {image.path: _words(image.path.relative_to(root)) for image in (*hsis, *references)}
    count = len(references)
    told = {
        word: math.log(count / sum(word in words[r.path] for r in references))
        for word in {word for r in references for word in words[r.path]}
    }  # what all references share tells nothing
    only = len(hsis) == len(references) == 1
    found = []
    for hsi in hsis:
        keyed = [r for r in references if key is None or _same(key(hsi.path, root), key(r.path, root))]
        finer = [r for r in keyed if pixel_ratio(hsi.grid, r.grid) >= LEAST_RATIO]
        likely = {r.path: {w: told[w] for w in words[hsi.path] & words[r.path] if told[w] > 0} for r in finer}
        most = max((sum(each.values()) for each in likely.values()), default=0.0)
        covered = _coverage(hsi.grid, [r.grid for r in finer])
        matches = [
            _match(hsi, r, overlap, likely[r.path], most)
            for r, overlap in zip(finer, covered, strict=True)
            if (overlap >= LEAST_OVERLAP if overlap is not None else only or key or likely[r.path])
        ]
        matches.sort(key=lambda match: (-match.score, match.reference.path))
        if not matches:
            found.append(Pairing(hsi, None, _why_none(references, keyed, finer, covered)))
            continue
        best, others = matches[0], tuple(matches[1:])
        doubt = bool(others) and best.score - others[0].score < CLOSE
        why = best.why + (f"; {others[0].reference.path.name} is as likely" if doubt else "")
        found.append(Pairing(hsi, best.reference, why, others))
    return tuple(found)


def read_pairs(table: Path, root: Path) -> tuple[tuple[Path, Path], ...]:
    """Pairs that someone wrote down: a CSV with the columns `hsi` and `reference`, others are passed over.

    Parameters
    ----------
    table : Path
    root : Path
        Relative paths count from there.

    Raises
    ------
    ReadError
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReadError(f"cannot read {table}: {error}") from error
    if not rows:
        raise ReadError(f"{table} holds no pairs: a line `hsi,reference` and then a line for each is needed")
    missing = {"hsi", "reference"} - {key for key in rows[0] if key}
    if missing:
        raise ReadError(
            f"{table} has no column {' or '.join(sorted(missing))}; its first line must be hsi,reference"
        )
    pairs = []
    for number, row in enumerate(rows, 2):
        hsi, reference = (str(row[key] or "").strip() for key in ("hsi", "reference"))
        if not (hsi and reference):
            raise ReadError(f"{table}, line {number}: hsi and reference must both be named")
        hsi, reference = (os.path.abspath(root / each) for each in (hsi, reference))
        pairs.append((Path(hsi), Path(reference)))
    return tuple(pairs)


def _coverage(hsi: Grid, references: Sequence[Grid]) -> list[float | None]:
    """Share of the HSI's footprint that lies on each reference; None without georeferencing."""
    columns, rows = np.meshgrid(np.linspace(0, hsi.width, LATTICE), np.linspace(0, hsi.height, LATTICE))
    places: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # one projection for each CRS, not each reference
    shares: list[float | None] = []
    for grid in references:
        if not (hsi.georeferenced and grid.georeferenced):
            shares.append(None)
            continue
        name = "" if grid.crs is None else grid.crs.to_wkt()
        if name not in places:
            pixels = Grid(grid.crs, type(grid.transform).identity(), 1, 1)
            places[name] = hsi.to_pixels_of(pixels, columns, rows)
        x, y = ~grid.transform * places[name]
        shares.append(float(np.mean((x >= 0) & (x <= grid.width) & (y >= 0) & (y <= grid.height))))
    return shares


def _match(
    hsi: Image, reference: Image, overlap: float | None, likely: Mapping[str, float], most: float
) -> Match:
    days = None
    if hsi.time is not None and reference.time is not None:
        days = abs((hsi.time - reference.time).total_seconds()) / 86400
    score = overlap or 0.0
    score += 0.0 if days is None else WEIGHT * 2 ** (-days / DAYS)
    score += WEIGHT * sum(likely.values()) / most if most else 0.0
    shared = tuple(sorted(likely, key=lambda word: (-likely[word], word)))
    reasons = [
        "no georeferencing" if overlap is None else f"covers {100 * overlap:.0f} %",
        *([] if days is None else [_apart(days)]),
        *([f"named {', '.join(shared[:3])}"] if shared else []),
    ]
    return Match(reference, overlap, days, shared, score, ", ".join(reasons))


def _apart(days: float) -> str:
    return f"{days:.0f} days apart" if days >= 1.5 else f"{24 * days:.1f} h apart"


def _why_none(
    references: Sequence[Image],
    keyed: Sequence[Image],
    finer: Sequence[Image],
    covered: Iterable[float | None],
) -> str:
    if not references:
        return "the folder holds no reference (1 to 13 bands)"
    if not keyed:
        return "no reference has the same text where --match looks"
    if not finer:
        return "no reference has finer pixels"
    best = max((share for share in covered if share is not None), default=None)
    if best is None:
        return "without georeferencing, and no reference shares a part of its name"
    return f"no reference covers it (at most {100 * best:.0f} %)"


def _words(path: Path) -> frozenset[str]:
    """Parts of a name and of its folders, in lower case, and the numbers in these parts."""
    name = str(path.with_suffix("")).lower()
    return frozenset(re.findall(r"[^\W_]+", name) + re.findall(r"\d+", name))


def _key(pattern: str | None) -> Callable[[Path, Path], str | None] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PresetError(f"--match {pattern}: not a valid regular expression: {error}") from error
    if compiled.groups < 1:
        raise PresetError(f"--match {pattern}: put what both names share into a group, as in 'scene(\\d+)'")

    def key(path: Path, root: Path) -> str | None:
        hit = compiled.search(path.relative_to(root).as_posix())
        return None if hit is None else hit.group(1)

    return key


def _same(a: str | None, b: str | None) -> bool:
    return a is not None and a == b

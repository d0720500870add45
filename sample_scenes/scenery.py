"""The village by the river: what lies where, drawn in metres on a fine grid.

A scene is the cover of each material and a height; light follows from the height. Everything later is an
average of this, so that both sensors see one and the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

Map = NDArray[np.float64]

STEP = 0.25
"""Metres between the samples of the drawing."""
MARGIN = 32
"""Metres drawn around the HSI's footprint."""
SUN_AZIMUTH, SUN_ELEVATION = math.radians(148), math.radians(52)


@dataclass
class Canvas:
    """The drawing: x grows east and y south, metres from the HSI's upper-left corner.

    Attributes
    ----------
    x, y : ndarray (rows, columns)
        Of each sample.
    cover : dict of str to ndarray (rows, columns)
        Share of each material; they sum to 1.
    height : ndarray (rows, columns)
        Metres above the ground.
    rng : Generator
    """

    x: Map
    y: Map
    cover: dict[str, Map]
    height: Map
    rng: np.random.Generator

    def paint(self, where: Map | NDArray[np.bool_], **mix: Map | float) -> None:
        """Lay a mixture (shares sum to 1; `_` for a space in a name) over a place; 0..1 for soft edges."""
        for name, map_ in self.cover.items():
            share = mix.get(name.replace(" ", "_"), 0.0)
            self.cover[name] = map_ * (1 - where) + where * share

    def raise_to(self, where: NDArray[np.bool_], height: Map | float) -> None:
        """Build up to a height, never down."""
        self.height = np.where(where, np.maximum(self.height, height), self.height)

    def noise(self, metres: float) -> Map:
        """Smooth random pattern of unit variance and about the given grain."""
        white = self.rng.standard_normal(self.x.shape)
        pattern = gaussian_filter(white, metres / 2 / STEP, mode="wrap", truncate=3)
        return pattern / pattern.std()

    def share(self, mean: float, spread: float, *grains: float) -> Map:
        """A pattern between 0 and 1, the sum of several grains."""
        pattern = sum(self.noise(g) for g in grains) / math.sqrt(len(grains))
        return np.clip(mean + spread * pattern, 0, 1)

    def box(self, x: float, y: float, length: float, width: float, degrees: float) -> tuple[Map, Map, Map]:
        """Along and across a turned rectangle, and whether inside (bool)."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        along = c * (self.x - x) + s * (self.y - y)
        across = -s * (self.x - x) + c * (self.y - y)
        return along, across, (np.abs(along) < length / 2) & (np.abs(across) < width / 2)

    def house(
        self, x: float, y: float, size: tuple[float, float], degrees: float, roof: str, wall: float
    ) -> None:
        """A gable roof on walls of some metres; a flat one on `white_paint`, `concrete` and `blue_metal`."""
        _, across, inside = self.box(x, y, *size, degrees)
        flat = roof in ("white_paint", "concrete", "blue_metal")
        pitch = 0.08 if flat else 0.75
        ridge = np.maximum(size[1] / 2 - np.abs(across), 0) * pitch
        worn = self.share(0.12, 0.08, 0.6, 3)
        other = "concrete" if roof != "concrete" else "asphalt"
        self.paint(inside, **{roof: 1 - worn, other: worn})
        self.raise_to(inside, wall + ridge)
        if not flat and size[0] > 8:  # a chimney, and a dormer window's glass
            _, _, chimney = self.box(x + 1.5, y - 0.6, 0.8, 0.8, degrees)
            self.paint(chimney, concrete=1.0)
            self.raise_to(chimney, wall + size[1] * 0.45)

    def tree(self, x: float, y: float, radius: float, top: float) -> None:
        """A crown: a lumpy dome of leaves over whatever grows below."""
        r0, r1 = (int((v + MARGIN) / STEP) for v in (y - radius - 1, y + radius + 1))
        c0, c1 = (int((v + MARGIN) / STEP) for v in (x - radius - 1, x + radius + 1))
        if r0 < 0 or c0 < 0 or r1 >= self.x.shape[0] or c1 >= self.x.shape[1]:
            return
        at = np.s_[r0:r1, c0:c1]
        lumps = gaussian_filter(self.rng.standard_normal((r1 - r0, c1 - c0)), 2.0)
        distance = np.hypot(self.x[at] - x, self.y[at] - y) / radius + 0.6 * lumps
        inside = distance < 1
        dry = self.rng.uniform(0, 0.16)
        for name, map_ in self.cover.items():
            map_[at] = np.where(inside, {"tree": 1 - dry, "lawn": dry}.get(name, 0.0), map_[at])
        dome = top - 0.55 * radius + 0.8 * radius * np.sqrt(np.clip(1 - distance**2, 0, 1))
        self.height[at] = np.where(inside, np.maximum(self.height[at], dome), self.height[at])

    def sunlight(self) -> Map:
        """Direct light relative to open flat ground: Lambert's cosine, 0 in cast shadow."""
        east, north = math.sin(SUN_AZIMUTH), math.cos(SUN_AZIMUTH)
        rise = math.tan(SUN_ELEVATION)
        smooth = gaussian_filter(self.height, 0.8)
        dy, dx = np.gradient(smooth, STEP)
        slope = np.clip(1 - (dx * east - dy * north) / rise, 0, None) / np.sqrt(1 + dx**2 + dy**2)
        blocked = np.zeros_like(self.height)
        for distance in np.arange(2, int(self.height.max() / rise / STEP) + 2):
            towards = (distance * north, -distance * east)
            seen = shift(self.height, towards, order=1, mode="nearest") - distance * STEP * rise
            blocked = np.maximum(blocked, np.clip((seen - self.height - 0.15) / 0.3, 0, 1))
        return np.clip(slope, 0, 1.35) * (1 - blocked)


def draw(materials: tuple[str, ...], width: int, height: int, seed: int) -> Canvas:
    """Draw the scene around a footprint of width x height metres."""
    columns, rows = (np.arange(int((side + 2 * MARGIN) / STEP)) + 0.5 for side in (width, height))
    x, y = np.meshgrid(columns * STEP - MARGIN, rows * STEP - MARGIN)
    empty = {name: np.zeros(x.shape) for name in materials}
    canvas = Canvas(x, y, empty, np.zeros(x.shape), np.random.default_rng(seed))
    dry = canvas.share(0.22, 0.13, 1.2, 9, 30)
    canvas.paint(np.ones(x.shape), lawn=0.93 - dry * 0.8, straw=dry * 0.8, soil=0.07)
    for part in (_fields, _river, _roads, _village, _trees):
        part(canvas)
    return canvas


def river_y(x: Map | float) -> Map:
    """The river's middle."""
    return 126 + 9 * np.sin(np.asarray(x) / 38) + 4 * np.sin(np.asarray(x) / 17 + 1)


def road_x(y: Map | float) -> Map:
    """The road's middle."""
    return 112 + 13 * np.sin(np.asarray(y) / 45 + 0.4)


def _fields(c: Canvas) -> None:
    """West of the road: cereal with tramlines, maize in rows, plough with furrows, a young crop."""
    turn = math.radians(9)
    u, v = c.x * math.cos(turn) + c.y * math.sin(turn), -c.x * math.sin(turn) + c.y * math.cos(turn)
    west = (c.x < road_x(c.y) - 6) & (c.y < river_y(c.x) - 14)

    def parcel(u0: float, u1: float, v0: float, v1: float) -> Map:
        return west & (u > u0) & (u < u1) & (v > v0) & (v < v1)

    tram = (np.abs((v + 3) % 15 - 1.1) < 0.25) | (np.abs((v + 3) % 15 - 2.9) < 0.25)
    ripe = c.share(0.82, 0.08, 0.5, 6, 25)
    c.paint(parcel(-60, 36, -60, 47), straw=ripe, crop=(1 - ripe) * 0.5, soil=(1 - ripe) * 0.5)
    c.paint(parcel(-60, 36, -60, 47) & tram, straw=0.25, soil=0.75)

    row = 0.5 + 0.5 * np.cos(2 * math.pi * u / 1.5)
    full = np.clip(c.share(0.62, 0.12, 0.6, 14) + 0.55 * (row - 0.5), 0, 1)
    c.paint(parcel(38, 74, -60, 52), crop=full, soil=(1 - full) * 0.5, moist_soil=(1 - full) * 0.5)

    furrow = 0.5 + 0.5 * np.sign(np.sin(2 * math.pi * v / 3.2))
    wet = np.clip(c.share(0.32, 0.16, 4, 22) + 0.22 * furrow, 0, 1)
    c.paint(parcel(76, 140, -60, 40), soil=1 - wet, moist_soil=wet)

    young = np.clip(c.share(0.45, 0.14, 1, 18) * (np.abs((u + v) % 12 - 6) > 0.5), 0, 1)
    c.paint(parcel(-60, 58, 50, 140), crop=young * 0.8, lawn=young * 0.2, soil=1 - young)
    mown = 0.25 + 0.3 * (np.sin(2 * math.pi * u / 9) > 0) + 0.06 * c.noise(1.0)
    c.paint(parcel(60, 140, 55, 140), lawn=1 - np.clip(mown, 0, 1), straw=np.clip(mown, 0, 1))
    c.paint(parcel(76, 140, 42, 53), lawn=0.8, soil=0.2)


def _river(c: Canvas) -> None:
    """Water between sandy banks that fade into the meadow, with a gravel bar."""
    off = np.abs(c.y - river_y(c.x)) - (5.5 + 1.2 * np.sin(c.x / 23)) + 0.35 * c.noise(3)
    bank = np.clip((3.2 - off) / 3.0, 0, 1)
    c.paint(bank, soil=0.55, moist_soil=0.25, lawn=0.2)
    deep = np.clip(0.5 - off / 1.2, 0, 1)
    silt = c.share(0.05, 0.04, 5, 20)
    c.paint(deep, water=1 - silt, moist_soil=silt)
    along, across, _ = c.box(62, float(river_y(62)) + 2.6, 20, 4.4, 12)
    bar = np.clip(1.4 - 1.4 * np.hypot(along / 10, across / 2.2) + 0.12 * c.noise(1), 0, 1)
    c.paint(bar, concrete=0.55, soil=0.35, moist_soil=0.10)


def _roads(c: Canvas) -> None:
    """The road with verges, dashes and a bridge; the village lane; a farm track of two ruts."""
    off = np.abs(c.x - road_x(c.y)) / np.sqrt(1 + (13 / 45 * np.cos(c.y / 45 + 0.4)) ** 2)
    c.paint(np.clip((4.6 - off) / 1.2, 0, 1), soil=0.5, lawn=0.35, concrete=0.15)
    worn = c.share(0.15, 0.06, 0.5, 4)
    bridge = (off < 4.2) & (np.abs(c.y - river_y(c.x)) < 9)
    c.paint(bridge, concrete=1.0)
    c.raise_to(bridge & (off > 3.7), 1.1)
    c.paint(off < 3.3, asphalt=1 - worn, concrete=worn)
    c.paint((off < 0.13) & (c.y % 9 < 5), white_paint=0.9, asphalt=0.1)
    c.paint(np.abs(off - 3.05) < 0.13, white_paint=0.8, asphalt=0.2)
    lane = np.abs(c.y - (66 + 5 * np.sin(c.x / 36)))
    c.paint((lane < 2.3) & (c.x > road_x(c.y) + 2), asphalt=0.75, concrete=0.25)
    track = np.abs(c.y - (river_y(c.x) - 13.5))
    c.paint((np.abs(track - 0.8) < 0.35) & (c.x < road_x(c.y) - 3), soil=0.8, concrete=0.2)


def _village(c: Canvas) -> None:
    """East of the road: a hall with a yard and cars, houses along the lane, a tennis court."""
    _, _, yard = c.box(161, 22, 52, 38, 6)
    worn = c.share(0.35, 0.1, 0.6, 5)
    c.paint(yard, asphalt=1 - worn, concrete=worn)
    c.house(170, 16, (26, 16), 6, "blue_metal", 6.5)
    c.house(146, 11, (11, 9), 6, "white_paint", 4)
    for k in range(9):  # parked cars
        colour = ("white_paint", "red_paint", "slate", "blue_metal", "asphalt")[int(c.rng.integers(5))]
        c.house(143 + 4.2 * k, 33.5 + 0.44 * k, (1.9, 4.4), 6, colour, 0.7)
        c.paint(c.box(145.1 + 4.2 * k, 33.7 + 0.44 * k, 0.12, 5, 6)[2], white_paint=1.0)
    roofs = ("red_tile", "red_tile", "red_tile", "slate", "red_tile", "slate", "concrete")
    spots = [(x, side) for x in (134, 149, 163, 178, 193, 208) for side in (-1, 1)]
    for k, (x, side) in enumerate(spots):
        lane = 66 + 5 * math.sin(x / 36)
        y = lane + side * (11 + c.rng.uniform(0, 2))
        angle = 8 * math.cos(x / 36) + c.rng.uniform(-4, 4) + 90 * (k % 5 == 3)
        c.paint(c.box(x + 4.5, lane + side * 5.5, 2.6, 9, 0)[2], concrete=0.9, asphalt=0.1)
        c.house(x, y, (c.rng.uniform(10, 13), c.rng.uniform(7.5, 9)), angle, roofs[k % 7], 4.5)
        shed = c.rng.uniform(1.8, 3.2)  # smaller than an HSI pixel
        colour = ("red_tile", "white_paint", "slate", "blue_metal")[k % 4]
        c.house(x + c.rng.uniform(-6, 6), y + side * 9, (shed, shed), angle, colour, 2.2)
    along, across, court = c.box(146, 101, 34, 17, -4)
    c.paint(court, clay_court=0.92, soil=0.08)
    lines = (np.abs(np.abs(across) - 5.5) < 0.12) & (np.abs(along) < 12)
    lines |= (np.abs(np.abs(along) - 12) < 0.12) & (np.abs(across) < 5.5)
    lines |= (np.abs(along) < 0.12) & (np.abs(across) < 5.5)
    c.paint(court & lines, white_paint=1.0)
    pool = c.box(186, 92, 8, 4, 8)[2]
    c.paint(c.box(186, 92, 10.5, 6.5, 8)[2], concrete=1.0)
    c.paint(pool, water=0.55, blue_metal=0.25, white_paint=0.2)


def _trees(c: Canvas) -> None:
    """Garden trees, an alley, the wooded bank, an orchard in rows and the wood in the south-west."""

    def free(x: float, y: float) -> bool:
        row, column = int((y + MARGIN) / STEP), int((x + MARGIN) / STEP)
        inside = 0 <= row < c.x.shape[0] and 0 <= column < c.x.shape[1]
        hard = (
            "asphalt",
            "concrete",
            "water",
            "red tile",
            "blue metal",
            "clay court",
            "white paint",
            "slate",
        )
        return inside and sum(c.cover[m][row, column] for m in hard) < 0.3 and c.height[row, column] < 1

    def plant(x: float, y: float, smallest: float, largest: float) -> None:
        radius = c.rng.uniform(smallest, largest)
        if free(x, y):
            c.tree(x, y, radius, 1.5 + 2.3 * radius)

    for _ in range(70):
        plant(c.rng.uniform(126, 222), c.rng.uniform(40, 118), 1.0, 2.8)
    for y in np.arange(-28, 105, 9.0):
        plant(float(road_x(y)) - 7, y, 1.8, 2.4)
    for x in np.arange(-30, 222, 5.0):
        plant(x + c.rng.normal(0, 2), float(river_y(x)) + 9.5 + c.rng.normal(0, 1.5), 1.5, 3.2)
    for x in np.arange(135, 222, 7.0):
        for y in np.arange(151, 190, 7.0):
            plant(x + c.rng.normal(0, 0.4), y + c.rng.normal(0, 0.4), 1.5, 2.0)
    for _ in range(420):
        x, y = c.rng.uniform(-30, 92), c.rng.uniform(138, 190)
        if y > river_y(x) + 12 + 6 * math.sin(x / 9):
            plant(x, y, 2.0, 4.2)

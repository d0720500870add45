import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, map_coordinates

from hsi_fuse.errors import GridError, PresetError, ReadError
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.simulation.displace import shown_at
from hsi_fuse.simulation.look import Look
from hsi_fuse.simulation.simulate import (
    PROTOCOLS,
    VARIANTS,
    Protocol,
    find_protocol,
    guide_truth,
    observe,
    srf_rows,
)

WAVELENGTHS = np.linspace(400, 900, 26)


def smooth_cube(height: int = 96, width: int = 112) -> torch.Tensor:
    """A smooth scene (26, H, W) between 0 and 1, so that interpolation is exact to 1e-4."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + b / 5) + b) * np.cos(y / (11 - b / 9)) for b in range(26)]
    return torch.from_numpy(np.stack(waves) / 2 + 0.5).float()


def test_registered_and_displaced_variants_of_every_protocol_exist():
    displaced = {"x4-ms4", "x8-ms4", "x4-rgb", "x8-rgb", "x16-rgb", "x4-pan", "x4-sharp"}
    registered = (
        displaced | {"cave-x32", "x3-ali"} | {f"x4-ms4-psf{f}" for f in ("0.3", "0.6", "1", "1.5", "2")}
    )
    rotated = {"rotated85", "rotated180", "rotated263"}
    assert set(VARIANTS) == {"mild", "strong", "off10", "contrast", "parallax"} | rotated
    assert set(PROTOCOLS) == registered | {"fresco"} | {f"{p}-{v}" for p in displaced for v in VARIANTS}
    assert {p for p in PROTOCOLS if PROTOCOLS[p].misregistration is None} == registered


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_psf_is_centred_and_as_wide_as_the_protocol_says(protocol: Protocol):
    psf = protocol.psf
    assert float(psf.sum()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(psf, psf.flip(0, 1))
    assert (psf.shape[0] - protocol.ratio) % 2 == 0
    if psf.shape[0] != protocol.ratio or "psf" in protocol.name:  # else CUCaNet's, of sigma 0.5
        # a Gaussian falls to half at FWHM / 2 from its middle
        half = protocol.ratio / 2 * float(protocol.name.partition("psf")[2] or 1)
        steps = torch.arange(psf.shape[0]) - (psf.shape[0] - 1) / 2
        profile = psf.sum(1) / psf.sum(1).max()
        expected = torch.exp(-math.log(2) * ((steps / half) ** 2 - (steps.abs().min() / half) ** 2))
        assert torch.allclose(profile, expected, atol=1e-6)


def test_a_symmetric_scene_stays_symmetric():
    cube = smooth_cube(96, 96)
    cube = cube + cube.flip(1, 2)
    hsi = blur_down(cube, PROTOCOLS["x4-ms4"].psf, 4)
    assert torch.allclose(hsi, hsi.flip(1, 2), atol=1e-5)


def test_srf_rows_sum_to_one_and_stay_in_their_band():
    edges = PROTOCOLS["x4-ms4"].guide_edges_nm
    fine = np.arange(400, 1000, 1.0)
    rows = srf_rows(fine, edges).numpy()
    assert rows.sum(1) == pytest.approx(np.ones(4), abs=1e-5)
    for row, (lower, upper) in zip(rows, edges, strict=True):
        assert row[fine == lower] == pytest.approx(row.max() / 2, rel=1e-2)  # half response at the edges
        far = np.abs(fine - (lower + upper) / 2) > 0.75 * (upper - lower)
        assert not row[far].any()


def test_a_measured_response_is_interpolated_and_ends_where_its_table_does():
    table = PROTOCOLS["cave-x32"].guide_table
    assert table is not None
    at_the_table = PROTOCOLS["cave-x32"].srf(np.arange(400.0, 701, 10)).numpy()
    assert at_the_table == pytest.approx(np.array([np.divide(r, sum(r)) for r in table.responses]), abs=1e-6)
    assert [int(400 + 10 * row.argmax()) for row in at_the_table] == [460, 550, 610]  # blue, green, red
    finer = PROTOCOLS["cave-x32"].srf(np.arange(300.0, 1000, 5)).numpy()
    assert finer.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert not finer[:, :20].any()
    assert not finer[:, 81:].any()
    assert finer[:, 21:80:2] == pytest.approx((finer[:, 20:79:2] + finer[:, 22:81:2]) / 2, abs=1e-6)
    with pytest.raises(ReadError, match="400-510"):
        PROTOCOLS["cave-x32"].srf(np.linspace(600, 700, 11))


def test_ali_sees_nine_bands_as_far_as_the_short_wave_infrared():
    pair = observe(torch.rand(180, 12, 15), np.linspace(400, 2500, 180), PROTOCOLS["x3-ali"])
    assert pair.guide.shape == (9, 12, 15)
    assert pair.hsi.shape == (180, 4, 5)
    assert not pair.guide_noise.any()


def test_an_unknown_protocol_is_an_error_that_lists_those_there_are():
    assert find_protocol("x4-rgb-mild") is PROTOCOLS["x4-rgb-mild"]
    with pytest.raises(PresetError, match=r"x9.*x4-ms4, x8-ms4.*cave-x32.*-mild, -strong"):
        find_protocol("x9")


def test_a_cube_without_signal_is_refused():
    with pytest.raises(ReadError, match="above 0"):
        observe(-torch.ones(26, 8, 8), WAVELENGTHS, PROTOCOLS["x4-rgb"])


def test_a_band_outside_the_cube_is_an_error_that_names_it():
    with pytest.raises(ReadError, match="760-855"):
        srf_rows(np.linspace(400, 700, 31), PROTOCOLS["x4-ms4"].guide_edges_nm)
    with pytest.raises(GridError, match="too small"):
        observe(torch.ones(26, 3, 3), WAVELENGTHS, PROTOCOLS["x4-rgb"])


def test_registered_pair_is_the_forward_model_plus_noise_at_the_snr():
    raw = smooth_cube(98, 115) * 4000 - 100  # ragged size, negative values
    pair = observe(raw, WAVELENGTHS, PROTOCOLS["x4-ms4"], seed=3)
    assert pair.hsi.shape == (26, 24, 28)
    assert pair.guide.shape == (4, 96, 112)
    assert pair.truth.min() == 0
    assert torch.equal(pair.truth, (raw.clamp(min=0) / raw.max())[:, :96, :112])
    hsi = blur_down(pair.truth, pair.sensor.psf, 4)
    guide = mix_bands(pair.truth, pair.sensor.srf)
    for seen, clean, noise, snr in (
        (pair.hsi, hsi, pair.hsi_noise, 35),
        (pair.guide, guide, pair.guide_noise, 40),
    ):
        residual = (seen - clean) / noise[:, None, None]
        assert float(residual.std()) == pytest.approx(1, abs=0.03)
        assert abs(float(residual.mean())) < 0.03
        measured = 10 * torch.log10((clean**2).mean((1, 2)) / noise**2)
        assert measured.numpy() == pytest.approx(np.full(len(noise), snr), abs=1e-3)
    assert pair.guide_valid.all()
    assert pair.fine_to_guide[:, 5, 7].tolist() == [7.5, 5.5]


def test_no_noise_where_the_protocol_has_none():
    pair = observe(smooth_cube(), WAVELENGTHS, PROTOCOLS["x4-sharp"])
    assert not pair.hsi_noise.any()
    assert torch.equal(pair.guide, mix_bands(pair.truth, pair.sensor.srf))


@pytest.mark.parametrize("name", ["x4-ms4", "x4-ms4-strong", "x4-ms4-contrast", "x4-ms4-parallax"])
def test_same_seed_same_pair(name: str):
    first, again, other = (observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[name], s) for s in (1, 1, 2))
    assert torch.equal(first.hsi, again.hsi)
    assert torch.equal(first.guide, again.guide)
    assert not torch.equal(first.guide, other.guide)
    assert not torch.equal(first.hsi, other.hsi)


def look_up(image, places):
    """Cubic splines of (m, H, W) at corner-based (column, row) places."""
    return np.stack([map_coordinates(b, places[::-1] - 0.5, order=3) for b in image])


def shown_well(pair, margin: int = 6):
    """(H, W): fine pixels that the guide shows, and everything around them too."""
    seen, _ = shown_at(binary_erosion(pair.guide_valid.numpy(), iterations=margin), pair.fine_to_guide)
    return seen & ~pair.occluded


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("contrast", "parallax")])
def test_displaced_guide_shows_the_scene_where_the_mapping_says(variant: str):
    pair = observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[f"x4-sharp-{variant}"], seed=5)
    expected = mix_bands(pair.truth, pair.sensor.srf).numpy()
    shown = shown_well(pair)
    assert shown.mean() > 0.4
    # 0.01 px would show as about 5e-4 here
    assert np.abs(look_up(pair.guide.numpy(), pair.fine_to_guide) - expected)[:, shown].max() < 3e-4


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "parallax"])
def test_displacement_has_the_size_the_protocol_says(variant: str):
    moved, _ = VARIANTS[variant]
    pair = observe(smooth_cube(120, 140), WAVELENGTHS, PROTOCOLS[f"x4-rgb-{variant}"], seed=1)
    height, width = pair.truth.shape[1:]
    local = pair.fine_to_guide - globally(moved, height, width)
    assert math.sqrt((local**2).sum(0).mean()) == pytest.approx(moved.local_px, rel=1e-6)
    assert np.abs(np.diff(local, axis=2)).max() < moved.local_px / 3  # smooth
    within, _ = shown_at(pair.guide_valid.numpy(), pair.fine_to_guide)
    assert moved.max_overlap - 0.15 < within.mean() <= moved.max_overlap
    assert not pair.guide[:, ~pair.guide_valid].any()


def globally(moved, height: int, width: int):
    """Where rotation, scale and shift alone put the fine pixels."""
    y, x = np.mgrid[:height, :width] + 0.5
    angle = math.radians(moved.degrees)
    u, v = x - width / 2, y - height / 2
    column = moved.scale * (u * math.cos(angle) - v * math.sin(angle)) + width / 2
    row = moved.scale * (u * math.sin(angle) + v * math.cos(angle)) + height / 2
    shift = np.add(moved.shift_px, np.multiply(moved.shift_share, (width, height)))
    return np.stack([column, row]) + shift[:, None, None]


@pytest.mark.parametrize("name", ["fresco", "x4-sharp-strong"])
def test_truth_on_the_guides_grid_is_what_the_guide_saw(name: str):
    pair = observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[name], seed=4)
    there = guide_truth(smooth_cube(), WAVELENGTHS, PROTOCOLS[name], seed=4)
    assert torch.allclose(mix_bands(there.cube, pair.sensor.srf), pair.guide, atol=2e-5)
    shown = shown_well(pair)
    found = look_up(there.cube.numpy(), pair.fine_to_guide)
    assert np.abs(found - pair.truth.numpy())[:, shown].max() < 3e-4
    # as much of the guide lies within the HSI's footprint as of that in the guide, but for local stretching
    seen, _ = shown_at(pair.guide_valid.numpy(), pair.fine_to_guide)
    assert float(there.within.sum()) == pytest.approx(float(seen.sum()), rel=0.08)
    assert bool((pair.guide_valid & ~there.within).any())


def test_partial_overlap_is_as_large_as_the_protocol_says():
    pair = observe(smooth_cube(), WAVELENGTHS, PROTOCOLS["fresco"])
    seen, _ = shown_at(pair.guide_valid.numpy(), pair.fine_to_guide)
    assert 0.55 < seen.mean() <= 0.7
    assert not pair.hsi_noise.any()
    assert not pair.guide_noise.any()


def test_georeferencing_is_right_wrong_or_missing_as_the_variant_says():
    claims = {v: observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[f"x8-rgb-{v}"]) for v in VARIANTS}
    for variant, pair in claims.items():
        assert pair.georeferenced == (not variant.startswith("rotated"))
        columns, rows = pair.claimed_shift_px
        assert math.hypot(columns, rows) == pytest.approx(80 if variant == "off10" else 0)
        assert abs(columns) == abs(rows)
    assert torch.equal(claims["off10"].guide, claims["mild"].guide)  # only the claim differs
    directions = {
        observe(smooth_cube(), WAVELENGTHS, PROTOCOLS["x4-rgb-off10"], s).claimed_shift_px for s in range(9)
    }
    assert len(directions) > 2


def test_contrast_changes_what_it_says_and_nothing_else():
    mild, pair = (
        observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[f"x4-sharp-{v}"], 3) for v in ("mild", "contrast")
    )
    assert pair.changed.sum() == pytest.approx(0.1 * int(pair.guide_valid.sum()), rel=0.03)
    assert np.array_equal(pair.fine_to_guide, mild.fine_to_guide)
    clear = pair.guide_valid.numpy() & ~pair.changed
    plain = mild.guide / mild.guide.amax((1, 2), keepdim=True)
    rising = 0.5 * plain.clamp(min=0) ** (1 / 2.2) + 0.1
    falling = 0.7 - rising  # 0.5 (1 - x) + 0.1
    fits = [
        [torch.allclose(g[clear], e[clear], atol=1e-5) for e in both]
        for g, *both in zip(pair.guide, rising, falling, strict=True)
    ]
    assert sorted(fits) == [[False, True], [True, False], [True, False]]
    wrong = torch.minimum((pair.guide - rising).abs(), (pair.guide - falling).abs()).amax(0)
    assert (wrong.numpy()[pair.changed] > 1e-3).mean() > 0.9


def test_a_plain_look_is_the_guide_itself():
    guide = torch.rand(3, 8, 9)
    seen, changed = Look()(guide, torch.ones(8, 9, dtype=torch.bool), np.random.default_rng(0))
    assert seen is guide
    assert not changed.any()


@pytest.fixture(scope="module")
def blocks():
    """A parallax pair without noise: bright and dark cells on a smooth ground."""
    rng = np.random.default_rng(1)
    level = np.kron(rng.uniform(0.3, 1.0, (20, 24)), np.ones((8, 8)))
    cube = smooth_cube(160, 192) * torch.from_numpy(gaussian_filter(level, 1.0)).float()
    return observe(cube, WAVELENGTHS, PROTOCOLS["x4-sharp-parallax"], seed=2)


def test_objects_are_displaced_along_one_direction(blocks):
    moves = blocks.fine_to_guide - globally(VARIANTS["parallax"][0], *blocks.objects.shape)
    numbers = np.unique(blocks.objects)
    assert 10 <= len(numbers) - 1 <= 12
    assert np.abs(moves[:, blocks.objects == 0]).max() < 1e-9
    each = np.array([moves[:, blocks.objects == n].mean(1) for n in numbers[1:]])
    assert all(np.abs(moves[:, blocks.objects == n].std(1)).max() < 1e-9 for n in numbers)
    lengths = np.hypot(*each.T)
    assert lengths.min() >= 2
    assert lengths.max() <= 4
    assert np.ptp(each / lengths[:, None], axis=0) == pytest.approx([0, 0], abs=1e-9)


def test_objects_are_seen_where_the_mapping_says_and_hide_what_is_behind(blocks):
    expected = mix_bands(blocks.truth, blocks.sensor.srf).numpy()
    error = np.abs(look_up(blocks.guide.numpy(), blocks.fine_to_guide) - expected).max(0)
    shown = shown_well(blocks, 2)
    contrast = expected.std()
    assert np.median(error[shown]) < 0.02 * contrast
    assert np.median(error[shown & (blocks.objects > 0)]) < 0.05 * contrast
    # an object's rim mixes with what lies beside it in the guide: a pixel or two
    assert (error[shown] > 0.3 * contrast).mean() < 0.1
    assert 0.01 < blocks.occluded.mean() < 0.15
    assert np.median(error[blocks.occluded]) > 0.3 * contrast
    # hidden pixels lie within an object's displacement of an object
    assert not (blocks.occluded & ~binary_dilation(blocks.objects > 0, iterations=7)).any()

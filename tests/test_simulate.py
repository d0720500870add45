import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from hsi_fuse.errors import GridError, ReadError
from hsi_fuse.physics import blur_down, mix_bands
from hsi_fuse.simulate import MISREGISTRATIONS, PROTOCOLS, Protocol, observe, srf_rows

WAVELENGTHS = np.linspace(400, 900, 26)


def smooth_cube(height: int = 96, width: int = 112) -> torch.Tensor:
    """A smooth scene (26, H, W) between 0 and 1, so that interpolation is exact to 1e-4."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + b / 5) + b) * np.cos(y / (11 - b / 9)) for b in range(26)]
    return torch.from_numpy(np.stack(waves) / 2 + 0.5).float()


def test_registered_and_displaced_variants_of_every_protocol_exist():
    registered = {"x4-ms4", "x8-ms4", "x4-rgb", "x8-rgb", "x4-pan", "x4-sharp"}
    assert set(PROTOCOLS) == registered | {f"{p}-{v}" for p in registered for v in ("mild", "strong")}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_psf_is_centred_and_as_wide_as_the_protocol_says(protocol: Protocol):
    psf = protocol.psf
    assert float(psf.sum()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(psf, psf.flip(0, 1))
    assert (psf.shape[0] - protocol.ratio) % 2 == 0
    if "sharp" not in protocol.name:  # a Gaussian falls to half at FWHM / 2 from its middle
        half = protocol.ratio / 2
        steps = torch.arange(psf.shape[0]) - (psf.shape[0] - 1) / 2
        profile = psf.sum(1) / psf.sum(1).max()
        expected = torch.exp(-math.log(2) * ((steps / half) ** 2 - (0.5 / half) ** 2))
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


@pytest.mark.parametrize("name", ["x4-ms4", "x4-ms4-strong"])
def test_same_seed_same_pair(name: str):
    first, again, other = (observe(smooth_cube(), WAVELENGTHS, PROTOCOLS[name], s) for s in (1, 1, 2))
    assert torch.equal(first.hsi, again.hsi)
    assert torch.equal(first.guide, again.guide)
    assert not torch.equal(first.guide, other.guide)
    assert not torch.equal(first.hsi, other.hsi)


@pytest.mark.parametrize("variant", MISREGISTRATIONS)
def test_displaced_guide_shows_the_scene_where_the_mapping_says(variant: str):
    protocol = PROTOCOLS[f"x4-sharp-{variant}"]
    pair = observe(smooth_cube(), WAVELENGTHS, protocol, seed=5)
    columns, rows = pair.fine_to_guide - 0.5
    looked_up = np.stack([map_coordinates(b, [rows, columns], order=3) for b in pair.guide.numpy()])
    expected = mix_bands(pair.truth, pair.sensor.srf).numpy()
    # only where the spline's neighbourhood lies within the guide
    solid = map_coordinates(pair.guide_valid.numpy().astype(float), [rows, columns], order=1)
    deep = np.minimum.reduce([columns, rows, pair.truth.shape[2] - columns, pair.truth.shape[1] - rows]) > 8
    deep &= solid == 1
    if variant == "strong":
        deep &= columns > np.argwhere(pair.guide_valid.numpy().any(0))[0, 0] + 8
    assert deep.mean() > 0.4
    # 0.01 px would show as about 5e-4 here
    assert np.abs(looked_up - expected)[:, deep].max() < 3e-4


@pytest.mark.parametrize("variant", MISREGISTRATIONS)
def test_displacement_has_the_size_the_protocol_says(variant: str):
    moved = MISREGISTRATIONS[variant]
    pair = observe(smooth_cube(120, 140), WAVELENGTHS, PROTOCOLS[f"x4-rgb-{variant}"], seed=1)
    height, width = pair.truth.shape[1:]
    y, x = np.mgrid[:height, :width] + 0.5
    angle = math.radians(moved.degrees)
    u, v = x - width / 2, y - height / 2
    column = moved.scale * (u * math.cos(angle) - v * math.sin(angle)) + width / 2
    row = moved.scale * (u * math.sin(angle) + v * math.cos(angle)) + height / 2
    shift = np.add(moved.shift_px, np.multiply(moved.shift_share, (width, height)))
    local = pair.fine_to_guide - [column, row] - shift[:, None, None]
    assert math.sqrt((local**2).sum(0).mean()) == pytest.approx(moved.local_px, rel=1e-6)
    assert np.abs(np.diff(local, axis=2)).max() < moved.local_px / 3  # smooth
    at = np.floor(pair.fine_to_guide).astype(int)
    within = (at >= 0).all(0) & (at[0] < width) & (at[1] < height)
    shown = pair.guide_valid.numpy()[at[1][within], at[0][within]].sum() / (height * width)
    assert shown <= moved.max_overlap
    assert shown > moved.max_overlap - 0.15
    assert not pair.guide[:, ~pair.guide_valid].any()

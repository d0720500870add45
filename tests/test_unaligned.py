"""Pairs that nobody registers: responses from populations, materials from colours, both products on disk."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from conftest import RATIO, Pair
from synthetic import EDGES, WAVELENGTHS, observed, psnr, scene
from torch import Tensor

from hsi_fuse import cli, fuse, load_preset, open_guide, read_hsi
from hsi_fuse.errors import PresetError
from hsi_fuse.overlap import populations
from hsi_fuse.overlap.blockterm import BlockTermOptions
from hsi_fuse.overlap.colours import STRANGE
from hsi_fuse.overlap.populations import guess_responses
from hsi_fuse.overlap.unaligned import GuideProduct
from hsi_fuse.overlap.unregistered import Unmixed, UnmixOptions, least_angle_deg, unmix_unregistered
from hsi_fuse.physics import blur_down, gaussian_psf, mix_bands
from hsi_fuse.problem import NativeGuide
from hsi_fuse.sensors.srf import MS4, RGB, srf_rows
from hsi_fuse.subspace import upsample

HELD = torch.ones(72, 80, dtype=torch.bool)
"""Where the turned guide has data."""
HELD[:8, :8] = False
QUICK = UnmixOptions(starts=2, terms=BlockTermOptions(iterations=30))


@pytest.fixture(scope="module")
def spectra() -> Tensor:
    """HSI pixels of one part of a scene (n, N)."""
    return blur_down(scene(96, 96, 1), gaussian_psf(RATIO, 4.0), RATIO).flatten(1)


def colours(edges: tuple[tuple[float, float], ...], gain: float = 1.0) -> Tensor:
    """The same area, turned and cut elsewhere, in other bands (m, M)."""
    turned = scene(96, 96, 1).rot90(1, (1, 2))[:, :72, 16:]
    return gain * mix_bands(
        blur_down(turned, gaussian_psf(RATIO, 4.0), RATIO), srf_rows(WAVELENGTHS, edges)
    ).flatten(1)


@pytest.mark.parametrize("edges", [RGB, RGB[::-1], MS4, (*RGB[::-1], MS4[3])])
def test_the_order_of_usual_bands_is_found(spectra: Tensor, edges) -> None:
    found = guess_responses(spectra, colours(edges), WAVELENGTHS)
    assert found.kind == "usual"
    assert torch.allclose(found.srf, srf_rows(WAVELENGTHS, edges))


def test_bands_that_are_named_are_taken_at_their_word(spectra: Tensor) -> None:
    edges = ((500.0, 540.0), (700.0, 760.0))
    named = np.array([520.0, 730.0]), np.array([40.0, 60.0])
    found = guess_responses(spectra, colours(edges), WAVELENGTHS, *named)
    assert found.kind == "named"
    assert torch.allclose(found.srf, srf_rows(WAVELENGTHS, edges))


def test_a_wavelength_without_a_width_gives_way_to_what_fits_better(spectra: Tensor) -> None:
    """Such as the upper edges of the bands, which some files name."""
    found = guess_responses(spectra, colours(RGB), WAVELENGTHS, np.array([520.0, 600.0, 690.0]))
    assert found.kind == "usual"
    assert torch.allclose(found.srf, srf_rows(WAVELENGTHS, RGB))


def test_another_unit_is_scaled_by_the_medians(spectra: Tensor) -> None:
    found = guess_responses(spectra, colours(RGB, 255.0), WAVELENGTHS)
    assert found.srf.sum(1).numpy() == pytest.approx(np.full(3, 255.0), rel=0.15)


def test_unknown_bands_are_matched_freely(spectra: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populations, "STARTS", 2)
    edges = ((480.0, 560.0), (840.0, 940.0))
    found = guess_responses(spectra, colours(edges, 2.0), None)
    assert found.kind == "matched"
    centres = (found.srf * torch.from_numpy(WAVELENGTHS)).sum(1) / found.srf.sum(1)
    assert centres.tolist() == pytest.approx([520, 890], abs=80)  # near infrared is a plateau
    seen, wanted = (
        mix_bands(spectra[:, :, None], found.srf),
        mix_bands(spectra[:, :, None], srf_rows(WAVELENGTHS, edges)),
    )
    assert float((seen / (2 * wanted) - 1).abs().mean()) < 0.08


# --- materials ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turned() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An HSI, a guide of its area that lies turned and is not square, the truth on its grid, SRF."""
    pair = observed(truth=scene(96, 96, 1))
    there = pair.truth.rot90(1, (1, 2))[:, :72, 16:]
    return pair.hsi, mix_bands(there, pair.sensor.srf), there, pair.sensor.srf


@pytest.fixture(scope="module")
def unmixed(turned) -> Unmixed:
    hsi, guide, _, srf = turned
    weight = HELD.float()
    return unmix_unregistered(hsi, torch.ones(hsi.shape[1:]), guide, weight, srf, QUICK)


def test_an_unregistered_guide_becomes_hyperspectral(unmixed: Unmixed, turned) -> None:
    there = turned[2]
    flat = there.mean((1, 2), keepdim=True).expand_as(there)
    found = unmixed.estimate.rows(0, there.shape[1])
    assert psnr(found, there, HELD) > psnr(flat, there, HELD) + 10
    assert psnr(found, there, HELD) > 33


def test_materials_explain_both_images(unmixed: Unmixed, turned) -> None:
    hsi, guide, _, srf = turned
    assert min(float(part.min()) for part in (unmixed.spectra, unmixed.coarse, unmixed.fine)) >= 0
    assert psnr(mix_bands(unmixed.coarse, unmixed.spectra), hsi) > 30
    assert psnr(mix_bands(unmixed.fine, srf @ unmixed.spectra), guide, HELD) > 30
    assert unmixed.history == tuple(sorted(unmixed.history, reverse=True))


def test_weights_are_those_that_explain_both_images_best(unmixed: Unmixed, turned) -> None:
    hsi, guide, _, srf = turned

    def chosen(*weights: float) -> Unmixed:
        options = UnmixOptions(starts=1, weights=weights, terms=BlockTermOptions(iterations=5))
        return unmix_unregistered(hsi, torch.ones(hsi.shape[1:]), guide, HELD.float(), srf, options)

    assert unmixed.figures["weights"] in UnmixOptions().weights
    assert chosen(1e4, 1.0).figures["weights"] == 1.0  # far too smooth
    assert chosen(1e4).figures["weights"] == 1e4


def test_the_seed_hardly_matters(unmixed: Unmixed, turned) -> None:
    hsi, guide, there, srf = turned
    other = unmix_unregistered(hsi, torch.ones(hsi.shape[1:]), guide, HELD.float(), srf, QUICK, seed=7)
    figures = [psnr(each.estimate.rows(0, there.shape[1]), there, HELD) for each in (unmixed, other)]
    assert figures[0] == pytest.approx(figures[1], abs=1)


def test_strange_colours_are_doubted(turned) -> None:
    hsi, guide, _, srf = turned
    odd = guide.clone()
    odd[:, 20:24, 20:24] = torch.tensor([2.0, 0.0, 2.0, 0.0])[:, None, None]
    one = replace(QUICK, starts=1, terms=BlockTermOptions(iterations=2))
    found = unmix_unregistered(hsi, torch.ones(hsi.shape[1:]), odd, torch.ones(odd.shape[1:]), srf, one)
    assert bool((found.doubt[20:24, 20:24] > STRANGE).all())
    assert float((found.doubt > STRANGE).float().mean()) < 0.02


def test_a_native_guide_is_degraded_where_it_has_data() -> None:
    weight = torch.ones(19, 26)
    weight[:, :5] = 0
    native = NativeGuide(torch.rand(3, 19, 26), weight)
    low, there = native.degraded(gaussian_psf(4, 2.0), 4)
    assert low.shape == (3, 4, 6)
    assert there.tolist()[0] == [0, 0, 1, 1, 1, 1]


# --- files -------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(pair: Pair) -> Pair:
    """The pair with a camera image that is turned by a quarter and says it lies 60 % of its side off."""
    with rasterio.open(pair.ref) as file:
        values, profile = file.read(), file.profile
    turned = np.rot90(values, 1, (1, 2))
    where = profile["transform"] * Affine.translation(0.6 * values.shape[2], 0)
    profile.update(height=turned.shape[1], width=turned.shape[2], transform=where)
    path = pair.ref.with_name("turned.tif")
    with rasterio.open(path, "w", **profile) as file:
        file.write(turned)
    return replace(pair, ref=path)


def test_both_products_come_and_no_warning_is_missing(
    lost: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")
    out = tmp_path / "out.tif"
    command = ["run", lost.hsi, lost.ref, "--unaligned", "--preset", "interpolation", "-o", out, "--json"]
    assert cli.main([str(each) for each in command]) == 0
    names = {path.name for path in tmp_path.glob("out*")}
    assert "out_guide.tif" in names
    assert "out_displacement.tif" not in names  # nothing was registered
    with rasterio.open(out) as file, rasterio.open(lost.hsi.with_suffix(".img")) as hsi:
        assert file.shape == (hsi.height * RATIO, hsi.width * RATIO)
    with rasterio.open(tmp_path / "out_guide.tif") as file, rasterio.open(lost.ref) as ref:
        assert (file.shape, file.transform, file.count) == (ref.shape, ref.transform, 24)
        found, valid = file.read() * 1e-4, file.read_masks(1) > 0
    assert valid.mean() > 0.98
    figures = json.loads((tmp_path / "out_quality.json").read_text())
    assert any("nothing is registered" in text for text in figures["warnings"])
    assert figures["verdict"]["light"] != "green"
    # the middle of the turned camera image shows the HSI's ground
    truth = np.rot90(lost.truth, 1, (1, 2))
    edge = (found.shape[1] - truth.shape[1]) // 2, (found.shape[2] - truth.shape[2]) // 2
    inner = found[:, edge[0] : edge[0] + truth.shape[1], edge[1] : edge[1] + truth.shape[2]]
    assert psnr(torch.from_numpy(inner), torch.from_numpy(truth.copy())) > 25
    assert "nothing is registered" in capsys.readouterr().err


def test_with_texture_both_products_come_and_no_place_of_the_reference_is_in_the_hsis(
    lost: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hsi_fuse.write.learned._report", lambda *_: "<html></html>")
    out = tmp_path / "out.tif"
    command = ["run", lost.hsi, lost.ref, "--unaligned", "--preset", "fresco", "-o", out, "--json"]
    quick = {
        "steps": 4,
        "width": 8,
        "unmix.starts": 1,
        "unmix.weights": "[1.0]",
        "unmix.terms.iterations": 20,
    }
    for name, value in quick.items():
        command += ["--set", f"fresco.{name}={value}"]
    assert cli.main([str(each) for each in command]) == 0
    assert (tmp_path / "out_guide.tif").exists()
    figures = json.loads((tmp_path / "out_quality.json").read_text())
    assert any("nothing is registered" in text for text in figures["warnings"])
    with rasterio.open(out) as file:
        found = torch.from_numpy(file.read().astype(np.float32)) * 1e-4
    hsi, truth = read_hsi(lost.hsi), torch.from_numpy(lost.truth)
    # what it adds, the HSI's sensor does not see; and it is no worse than interpolation
    seen = blur_down(found, gaussian_psf(RATIO, float(RATIO)), RATIO)
    low = torch.from_numpy(hsi.values)
    assert float((seen - low).square().mean()) < 0.05 * float(low.var())
    assert psnr(found, truth) > psnr(upsample(low, RATIO), truth) - 0.2


def test_what_may_be_wrong_with_the_guides_product_is_said(unmixed: Unmixed, pair: Pair) -> None:
    hsi = read_hsi(pair.hsi)

    def warned(angle: float, doubt: Tensor) -> list[str]:
        other = replace(unmixed, figures={**unmixed.figures, "least_angle_deg": angle}, doubt=doubt)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            GuideProduct.of(other, HELD.numpy(), hsi.grid, hsi).warn()
        return [str(each.message) for each in caught]

    sure, doubtful = torch.zeros(72, 80), torch.zeros(72, 80)
    doubtful[20:40] = 2 * STRANGE
    assert warned(5.0, sure) == []
    assert "two materials of the scene look alike (0.3°" in warned(0.3, sure)[0]
    assert "colours never seen with a spectrum" in warned(5.0, doubtful)[0]


def test_materials_of_one_colour_are_told_apart_by_no_angle() -> None:
    """Spectra that differ only where the guide does not look."""
    spectra = torch.tensor([[1.0, 1.0, 0.2], [2.0, 2.0, 0.1], [0.3, 0.9, 0.5]])  # (n, K)
    blind = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert least_angle_deg(blind @ spectra) < 0.1
    assert least_angle_deg(spectra) > 5


def test_no_mapping_and_no_footprint_goes_with_it(pair: Pair) -> None:
    hsi, guide = read_hsi(pair.hsi), open_guide(pair.ref)
    with pytest.raises(PresetError, match="neither an extent"):
        fuse(hsi, guide, load_preset("draft"), unaligned=True, extent="guide")


def test_protocol_bands_are_among_the_usual_ones() -> None:
    assert EDGES[4] == MS4

"""Bands in any order: what is learned of them does not depend on where they stand in the file."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from affine import Affine

from hsi_fuse import plan, prepare
from hsi_fuse.errors import ReadError
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.preset import load_preset
from hsi_fuse.problem import silent
from hsi_fuse.read import open_guide, read_hsi
from hsi_fuse.registration.joint import Registered
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.known import KnownSensor
from hsi_fuse.sensors.sense import Sensed, Sensing


@pytest.mark.filterwarnings("ignore::hsi_fuse.errors.HsiFuseWarning")
@pytest.mark.parametrize("known", [True, False])
def test_sensors_are_learned_over_wavelengths_and_kept_in_the_order_of_the_file(
    make_pair, monkeypatch, known
):
    """Two overlapping detectors, one of them falling, and a bad band between: as in spaceborne products.

    Registration is replaced: its SRF is here each band's mean, its guide empty.
    """
    pair = make_pair()
    order = np.concatenate([np.arange(0, 24, 2), np.arange(1, 24, 2)[::-1]])
    hsi, guide = read_hsi(pair.hsi), open_guide(pair.ref)
    assert hsi.wavelengths_nm is not None
    hsi = replace(
        hsi,
        values=hsi.values[order],
        wavelengths_nm=hsi.wavelengths_nm[order] if known else None,
        good_bands=order != 5,
    )
    means = torch.from_numpy(hsi.values[hsi.good_bands].mean((1, 2)))
    seen = []

    def register(values, weight, *others):
        seen.append(values.mean((1, 2)))
        sensing = next(each for each in others if isinstance(each, Sensing))
        torch.testing.assert_close(sensing.known.srf[1], seen[0])
        sensor = Sensor(seen[0].repeat(4, 1), torch.zeros(4), gaussian_psf(4, 4.0), 4)
        height, width = hsi.grid.shape
        return Registered(
            hsi_to_guide=Affine.scale(4),
            bend=None,
            fitted=None,
            sensed=Sensed(sensor, torch.ones(4)),
            guide=np.zeros((4, 4 * height, 4 * width), np.float32),
            guide_weight=np.ones((4 * height, 4 * width), np.float32),
            confidence=np.ones((height, width), np.float32),
            changed=np.zeros((height, width), bool),
            before=np.zeros((0, 4)),
            after=np.zeros((0, 4)),
            evidence=SimpleNamespace(probability=1.0, deviation_hsi_px=0.1),
            responses=(),
        )

    monkeypatch.setattr(prepare, "register_pair", register)
    figures = {"rrmse_px": 0.1, "standard_error_px": 0.1}
    monkeypatch.setattr(prepare, "registration_figures", lambda *others: figures)
    given = KnownSensor(srf=means.repeat(4, 1))
    planned, preset = plan(hsi, guide, None, given), load_preset("draft")
    problem, _ = prepare.align(hsi, guide, planned, preset, 0, torch.device("cpu"), silent)
    in_order = np.argsort(hsi.wavelengths_nm[hsi.good_bands]) if known else np.arange(23)
    torch.testing.assert_close(seen[0], means[in_order])
    torch.testing.assert_close(problem.sensor.srf[2], means)
    torch.testing.assert_close(problem.hsi.mean((1, 2)), means)


def test_gaps_and_steps_back_between_detectors_are_no_reason_to_refuse(tmp_path, capsys):
    """Absorption bands cut out, and a second detector that starts before the first ends."""
    from hsi_fuse.cli import main

    nm = np.concatenate([np.linspace(420, 1000, 30), np.linspace(900, 1340, 20), np.linspace(1440, 1780, 15)])
    stored = np.random.default_rng(0).integers(1, 9000, (65, 8, 9)).astype("i2")
    stored[40] = 77  # dead
    stored.tofile(tmp_path / "s.img")
    (tmp_path / "s.hdr").write_text(
        "ENVI\nsamples = 9\nlines = 8\nbands = 65\nfile type = ENVI Standard\ndata type = 2\n"
        "interleave = bsq\nbyte order = 0\nreflectance scale factor = 10000\nwavelength units = Nanometers\n"
        f"wavelength = {{{', '.join(map(str, nm))}}}\nbbl = {{{', '.join(['1'] * 60 + ['0'] * 5)}}}\n"
    )
    raster = read_hsi(tmp_path / "s.hdr")
    np.testing.assert_array_equal(np.flatnonzero(~raster.good_bands), [40, 60, 61, 62, 63, 64])
    np.testing.assert_array_equal(raster.wavelengths_nm, nm)
    np.testing.assert_allclose(raster.values, stored / 1e4, rtol=1e-6)  # scaled once, in the file's order
    assert raster.encoding.dtype == "int16"
    assert main(["info", str(tmp_path / "s.hdr")]) == 0
    assert "420-1780 nm, not in order (detectors overlap?)" in capsys.readouterr().out


def test_what_leaves_too_few_bands_says_how_they_were_lost(tmp_path):
    stored = np.ones((4, 3, 3), "i2")
    stored.tofile(tmp_path / "s.img")
    (tmp_path / "s.hdr").write_text(
        "ENVI\nsamples = 3\nlines = 3\nbands = 4\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
        "wavelength units = Nanometers\nwavelength = {450, 550, 650, 850}\nbbl = {1, 1, 0, 0}\n"
    )
    with pytest.raises(
        ReadError, match=r"0 usable of 4 bands \(2 flagged bad \(bbl 0\), 0 empty, 4 constant;"
    ):
        read_hsi(tmp_path / "s.hdr")

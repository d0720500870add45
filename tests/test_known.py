"""Sensors that the user names or measures: obeyed where they are right, left where they are wrong."""

import numpy as np
import pytest
import torch
from affine import Affine
from synthetic import RATIO, observed

from hsi_fuse.errors import GridError, HsiFuseWarning, PresetError, ReadError
from hsi_fuse.grid import Grid
from hsi_fuse.physics import gaussian_psf
from hsi_fuse.raster import Raster
from hsi_fuse.sensors.known import KnownSensor, SensorWords, read_psf, read_responses, warn_of_contradiction
from hsi_fuse.sensors.nominal import guide_edges, hsi_bands, sensor_names
from hsi_fuse.sensors.sense import Sensing, sense

GRID = Grid(None, Affine.identity(), 4, 4)


@pytest.fixture(scope="module")
def pair():
    return observed()


def learn(pair, known=None):
    ones = torch.ones(pair.hsi.shape[1:]), torch.ones(pair.guide.shape[1:])
    return sense(pair.hsi, ones[0], pair.guide, ones[1], RATIO, Sensing(known=known or KnownSensor()))


def off(srf, true):
    """Largest angle between learned and true responses, degrees."""
    cosine = (srf * true).sum(1) / srf.norm(dim=1) / true.norm(dim=1)
    return float(torch.rad2deg(torch.arccos(cosine.clamp(max=1))).max())


def hsi_of(wavelengths_nm):
    n = len(wavelengths_nm)
    values = np.random.default_rng(0).random((n, 4, 4)).astype(np.float32)
    return Raster(values, np.ones((4, 4), bool), GRID, wavelengths_nm=np.asarray(wavelengths_nm, float))


def test_given_srf_keeps_its_shape_and_learns_only_gain_and_offset(pair):
    true = pair.sensor.srf
    sensed = learn(pair, KnownSensor(7 * true))
    assert off(sensed.sensor.srf, true) < 0.1
    assert sensed.sensor.srf.sum(1).numpy() == pytest.approx(true.sum(1).numpy(), rel=0.02)


def test_nominal_srf_helps_where_it_is_right(pair):
    blind, told = learn(pair), learn(pair, KnownSensor(pair.sensor.srf, nominal=True))
    assert off(blind.sensor.srf, pair.sensor.srf) > 10
    assert off(told.sensor.srf, pair.sensor.srf) < 1


def test_wrong_nominal_srf_is_left_and_told(pair):
    wrong = pair.sensor.srf.flip(1)
    found = learn(pair, KnownSensor(wrong, nominal=True)).sensor
    with pytest.warns(HsiFuseWarning, match=r"band 1 \(0\.\d+\), 2 .* order of --guide-sensor"):
        warn_of_contradiction(found)
    assert min(found.found["srf_nominal_cosine"]) < 0.5
    explained = np.array(found.found["srf_explained"])
    assert (explained > 0.98).all()


def test_given_psf_is_taken_as_it_is(pair):
    psf = gaussian_psf(RATIO, 5.0)
    assert torch.equal(learn(pair, KnownSensor(psf=psf)).sensor.psf, psf)
    width = learn(pair, KnownSensor(psf=1.5)).sensor.psf_fwhm
    assert width == pytest.approx((1.5 * RATIO, 1.5 * RATIO), rel=0.02)


def test_psf_of_the_other_parity_is_an_error():
    with pytest.raises(GridError, match="even or both odd"):
        KnownSensor(psf=torch.ones(5, 5) / 25).kernel(4)


def test_shipped_guides_have_rising_edges_and_bands_chosen_by_name_come_in_order():
    for name in sensor_names("guide"):
        assert all(100 < a < b < 3000 for a, b in guide_edges(name).values()), name
    assert list(guide_edges("sentinel-2:B8,b4,B3")) == ["B8", "B4", "B3"]
    with pytest.raises(PresetError, match="no band 'B99'; it has B1, "):
        guide_edges("sentinel-2:B99")
    with pytest.raises(PresetError, match="no guide sensor 'prisma'"):
        guide_edges("prisma")


@pytest.mark.parametrize(("name", "bands"), [("prisma", 234), ("enmap", 224), ("desis", 235), ("emit", 285)])
def test_shipped_spectrometers(name, bands):
    centres, widths = hsi_bands(name)
    assert len(centres) == len(widths) == bands
    assert centres.min() > 350
    assert centres.max() < 2600
    assert (widths > 0).all()


def test_sensor_tables_of_both_kinds_are_all_named():
    assert set(sensor_names("hsi")) == {"prisma", "enmap", "desis", "emit"}
    assert {"sentinel-2", "landsat-8", "nikon-d700"} <= set(sensor_names("guide"))


def test_long_and_wide_tables_say_the_same(tmp_path):
    long, wide = tmp_path / "long.csv", tmp_path / "wide.csv"
    long.write_text("band,wavelength_nm,response\nred,600,0\nred,650,2\nred,700,0\nblue,450,1\nblue,500,1\n")
    wide.write_text("wavelength_nm,a,b\n450,0,1\n500,0,1\n600,0,0\n650,2,0\n700,0,0\n")
    at = np.array([470.0, 640, 660])
    assert torch.equal(read_responses(long).rows(at), read_responses(wide).rows(at))
    assert read_responses(long).rows(at)[1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a table"),
        ("wavelength_nm,a\n", "no line follows"),
        ("a,b\n1,2\n", "first line of an SRF file"),
        ("band,wavelength_nm,response\nred,six,1\n", "'six' in line 2 is not a number"),
        ("band,wavelength_nm,response\nred,600\n", "line 2 does not have 3 values"),
        ("wavelength_nm,a\n500,0\n600,0\n", "band 1 has no response"),
    ],
)
def test_srf_tables_that_make_no_sense(tmp_path, text, said):
    path = tmp_path / "srf.csv"
    path.write_text(text)
    with pytest.raises(ReadError, match=said):
        read_responses(path)


def test_psf_tables(tmp_path):
    path = tmp_path / "psf.csv"
    path.write_text("1,2,1\n2,4,2\n1,2,1\n")
    assert read_psf(path).sum() == pytest.approx(1)
    for text, said in (("1,2\n", "square"), ("1,-2\n3,4\n", "no negative"), ("1,x\n3,4\n", "'x' in line 1")):
        path.write_text(text)
        with pytest.raises(ReadError, match=said):
            read_psf(path)
    path.write_text("3\n")
    assert read_psf(path).tolist() == [[1.0]]
    with pytest.raises(ReadError, match="cannot be read"):
        read_psf(tmp_path / "none.csv")


def test_what_is_known_must_fit_the_pair(tmp_path):
    hsi = hsi_of(np.linspace(420, 900, 40))
    assert SensorWords(guide_sensor="sentinel-2:B4,B3,B2").known(hsi, 3).srf.shape == (3, 40)
    with pytest.raises(ReadError, match="has 2 bands and the reference has 3"):
        SensorWords(guide_sensor="sentinel-2:B4,B3").known(hsi, 3)
    with pytest.raises(PresetError, match="not both"):
        SensorWords(tmp_path / "x.csv", "sentinel-2").known(hsi, 3)
    with pytest.raises(ReadError, match="no wavelengths"):
        SensorWords(guide_sensor="sentinel-2").known(Raster(hsi.values, hsi.valid, GRID), 3)
    with pytest.raises(ReadError, match="1568"):
        SensorWords(guide_sensor="sentinel-2:B11").known(hsi, 1)


def test_psf_in_words_is_a_width_or_a_file(tmp_path):
    hsi, path = hsi_of(np.linspace(420, 900, 40)), tmp_path / "psf.csv"
    path.write_text("1,1\n1,1\n")
    assert SensorWords(psf="1.5").known(hsi, 3).psf == 1.5
    assert SensorWords(psf="1.5").files == {}
    words = SensorWords(psf=str(path))
    assert words.known(hsi, 3).psf.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert words.files == {"psf": path}
    with pytest.raises(PresetError, match="above 0"):
        SensorWords(psf="-1").known(hsi, 3)


def test_nominal_responses_move_with_the_bands(pair):
    sensor = learn(pair, KnownSensor(pair.sensor.srf, nominal=True)).sensor
    turned = sensor.with_bands(range(sensor.srf.shape[1])[::-1])
    assert torch.equal(turned.srf, sensor.srf.flip(1))
    assert np.array_equal(turned.found["srf_nominal"], np.array(sensor.found["srf_nominal"])[:, ::-1])
    assert turned.found["srf_nominal_cosine"] == sensor.found["srf_nominal_cosine"]

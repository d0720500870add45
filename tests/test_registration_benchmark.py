"""The registration benchmark: its figures mean what they say, its baselines find what is there to find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import WAVELENGTHS, scene

from benchmarks import registration
from benchmarks.mapping_errors import auc, errors, gradient_energy
from benchmarks.matchers import METHODS, Found, ecc, phase
from benchmarks.registration import Score, line, losses, median_worst, protocol_for, resampled
from hsi_fuse.physics import mix_bands
from hsi_fuse.simulation.displace import Misregistration
from hsi_fuse.simulation.simulate import MS4, PROTOCOLS, observe

TURNED = Misregistration(shift_px=(3.3, -2.6), degrees=1.5, scale=1.01)
RUN = Score("muufl", "x4-rgb", "mild", 0, "ours", 0.1, 0.2, 0.1, np.nan, np.nan, 0.5, 0.99, 1.0, "")


@pytest.fixture(scope="module")
def pair():
    """Without a local field: an affine can be exact."""
    return observe(scene(), WAVELENGTHS, replace(PROTOCOLS["x4-ms4-mild"], misregistration=TURNED), seed=1)


@pytest.fixture(scope="module")
def parallax():
    return observe(scene(), WAVELENGTHS, PROTOCOLS["x4-rgb-parallax"], seed=1)


def test_the_true_mapping_has_no_error_and_a_shift_its_length(parallax):
    columns, rows = parallax.fine_to_guide
    confidence = 1.0 - parallax.occluded
    assert all(v == 0 for k, v in errors(parallax, Found(columns, rows)).items())
    off = errors(parallax, Found(columns + 3, rows - 4, confidence))
    assert off.pop("auc") == 1
    assert set(off) == {"weighted_px", "unweighted_px", "clear_px", "objects_px"}
    assert list(off.values()) == pytest.approx([5] * 4)


def test_errors_count_where_the_scene_has_gradients_and_nothing_is_hidden(parallax):
    columns, rows = parallax.fine_to_guide
    energy = gradient_energy(parallax)
    flat = energy < np.quantile(energy, 0.3)
    wrong_on_flat = errors(parallax, Found(columns + 2.0 * flat, rows))
    assert wrong_on_flat["weighted_px"] < 0.4 * wrong_on_flat["unweighted_px"]
    wrong_on_hidden = errors(parallax, Found(columns + 9.0 * parallax.occluded, rows))
    assert wrong_on_hidden["clear_px"] == 0
    assert wrong_on_hidden["weighted_px"] > 0.5


def test_auc_is_the_chance_of_the_right_order():
    truth = np.array([True, True, False, False])
    assert auc(np.array([0.9, 0.8, 0.1, 0.2]), truth) == 1
    assert auc(np.array([0.9, 0.1, 0.5, 0.2]), truth) == 0.5
    assert auc(np.zeros(4), truth) == 0.5
    assert np.isnan(auc(np.zeros(4), ~truth | truth))


def test_resampling_by_the_true_mapping_gives_the_registered_guide(pair):
    guide, weight = resampled(pair, Found(*pair.fine_to_guide))
    clean = mix_bands(pair.truth, pair.sensor.srf).numpy()
    error = (guide - clean)[:, weight > 0]
    assert (weight > 0).mean() > 0.9
    assert np.sqrt((error**2).mean()) < 0.1 * clean.std()  # the noise, and edges that splines round
    assert np.sqrt(((pair.guide.numpy() - clean)[:, weight > 0] ** 2).mean()) > 5 * np.sqrt((error**2).mean())


def test_baselines_find_a_shift_and_an_affine(pair):
    assert errors(pair, phase(pair))["unweighted_px"] < 2.0  # 1.5 deg leaves 1.6 px to a shift
    assert errors(pair, ecc(pair))["unweighted_px"] < 0.15


def test_ours_starts_from_what_the_georeferencing_claims(pair):
    told = replace(pair, claimed_shift_px=(20.0, -20.0))
    assert errors(told, METHODS["ours"](told))["weighted_px"] < 0.5


def test_a_scene_without_near_infrared_gets_four_visible_bands():
    visible = protocol_for(np.linspace(400, 700, 31), "x4-ms4-mild").guide_edges_nm
    assert len(visible) == 4
    assert max(visible[-1]) <= 700
    assert protocol_for(np.linspace(400, 900, 31), "x4-ms4-mild").guide_edges_nm == MS4
    assert (
        protocol_for(np.linspace(400, 700, 31), "x4-rgb").guide_edges_nm == PROTOCOLS["x4-rgb"].guide_edges_nm
    )


def test_a_failure_counts_as_infinite_and_misses_the_bar():
    failed = replace(RUN, weighted_px=90.0, failure="lost", loss_db=np.nan)
    assert median_worst([RUN, RUN, failed], "weighted_px") == (0.1, np.inf)
    assert median_worst([RUN, failed], "weighted_px") == (np.inf, np.inf)
    assert "1/3" in line([RUN, RUN, failed])
    assert line([RUN, RUN, failed]).count("MISSED") == 2
    assert line([RUN, RUN]).count("holds") == 2
    assert "1 failures left out" in losses([RUN, failed], "draft")


def test_bars_double_at_x8():
    assert "0.20/0.50 holds" in line([RUN])
    assert "0.40/1.00 holds" in line([replace(RUN, protocol="x8-rgb", weighted_px=0.35)])
    seen = replace(RUN, variant="parallax", auc=0.85, objects_px=0.7)
    assert "AUC 0.85 holds" in line([seen])
    assert "objects 0.70 MISSED" in line([seen])


def test_the_command_prints_the_table_and_writes_every_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(registration, "load", lambda name: (scene(), WAVELENGTHS))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    csv = tmp_path / "runs.csv"
    chosen = [
        "--scenes",
        "muufl,samson",
        "--seeds",
        "0",
        "--protocols",
        "x8-rgb",
        "--variants",
        "mild,parallax",
    ]
    code = registration.main(
        [*chosen, "--methods", "phase", "--workers", "1", "--fuse", "draft", "-v", "-o", str(csv)]
    )
    said = capsys.readouterr().out
    assert code == 0
    assert sum(row.startswith("x8-rgb") for row in said.splitlines()) == 4 + 2 + 1
    assert "draft loses" in said
    assert len(csv.read_text().splitlines()) == 1 + 4
    with pytest.raises(SystemExit):
        registration.main(["--variants", "milder"])

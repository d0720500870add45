"""Real pairs through the command line: nodata, empty bands, missing georeferencing and a strip too small."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def real(data_dir):
    """The benchmark's module; it looks for the scenes as it is imported."""
    from benchmarks import real_pairs

    return real_pairs


def test_nodata_and_empty_bands_stay_where_they_were(real, tmp_path):
    pair = real.enmap(tmp_path)
    code, _, said = real.run(pair, tmp_path / "out.tif", "draft")
    assert code == 0, said
    lines = real.against_truth(pair, tmp_path / "out.tif")
    assert "NO" not in lines[0]
    assert real.figures(pair, tmp_path / "out.tif")["synthesis"] > 5


def test_another_crs_and_a_shift_are_found(real, tmp_path):
    pair = real.enmap_utm(tmp_path)
    code, _, said = real.run(pair, tmp_path / "out.tif", "draft")
    assert code == 0, said
    assert real.figures(pair, tmp_path / "out.tif")["shift_error"] < 0.1


def test_a_pair_without_georeferencing_runs(real, tmp_path):
    pair = real.paris(tmp_path)
    code, _, said = real.run(pair, tmp_path / "out.tif", "draft")
    assert code == 0, said
    assert "georeferencing" in said
    assert real.figures(pair, tmp_path / "out.tif")["synthesis"] > 2


def test_a_tiny_strip_runs_or_is_refused_in_plain_words(real, tmp_path):
    code, _, said = real.run(real.neon(tmp_path), tmp_path / "out.tif", "draft")
    assert code in (0, 3, 4), said

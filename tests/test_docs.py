"""What the documentation promises: its example runs and leaves the process alone, its messages exist."""

from __future__ import annotations

import ast
import random
import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hsi_fuse import load_preset, read_hsi
from hsi_fuse.quality.assess import AssessOptions

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def state() -> dict[str, object]:
    """What a library should leave as it is."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002  # it is the one to leave alone
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "showwarning": warnings.showwarning,
        "errors of numpy": np.geterr(),
    }


def test_the_example_runs_in_five_lines_and_leaves_the_process_alone(pair, monkeypatch, capfd):
    lines = [line for line in (DOCS / "example.py").read_text().splitlines() if line and line[0] != '"']
    assert len(lines) <= 5
    monkeypatch.chdir(pair.hsi.parent)  # where scene.hdr and camera.tif are
    quick = ["coupled.steps=40", "coupled.imitate=40", "align.local=false"]
    monkeypatch.setattr("hsi_fuse.pipeline.load_preset", lambda name: load_preset(name, quick))
    before = state()
    runpy.run_path(str(DOCS / "example.py"))
    after = state()
    assert [name for name in before if before[name] != after[name]] == []
    assert capfd.readouterr() == ("", "")
    made = {path.name for path in pair.hsi.parent.glob("sharp*")}
    assert {"sharp.tif", "sharp_report.html", "sharp_confidence.tif", "sharp_support.csv"} <= made
    product = read_hsi("sharp.tif").values
    assert product.shape == pair.truth.shape
    inner = np.s_[:, 8:-8, 8:-8]
    error = np.sqrt(((product - pair.truth)[inner] ** 2).mean())
    assert error < 0.2 * pair.truth[inner].std()


def test_the_lines_in_the_docstring_of_the_package_are_those_of_the_example():
    import hsi_fuse

    code = (DOCS / "example.py").read_text().split('"""')[2].strip()
    assert code in hsi_fuse.__doc__


def spoken() -> str:
    """All strings of the source code, a line each; of f-strings the constant parts."""
    texts = []
    for path in [*(ROOT / "hsi_fuse").rglob("*.py"), *(ROOT / "cli").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_message_of_the_troubleshooting_page_exists():
    said, missing = spoken(), []
    for line in (DOCS / "troubleshooting.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            cell = line.split(" | ")[0]
            missing += [text for text in re.findall(r"`([^`]+)`", cell) if text not in said]
    assert missing == []


@pytest.mark.parametrize("name", ["guide", "troubleshooting", "methods", "python"])
def test_options_that_the_pages_name_exist(name):
    said = spoken()
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    options = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", text))
    assert [option for option in options if option not in said] == []


LIMITS = {
    "position": "position", "place": "place", "response": "response", "blur": "blur", "radiometry": "bias",
    "bands": "band", "detail": "detail", "sharpness": "sharpness", "noise": "noise",
    "integrity": "negative",
}  # fmt: skip
"""Names of lights and of their limits."""


@pytest.mark.parametrize("light", LIMITS)
def test_the_guide_tells_the_limits_of_the_lights(light):
    row = re.search(rf"^\| {light} \|.*\| ([^|]*) \|$", (DOCS / "guide.md").read_text(), re.MULTILINE)
    told = [float(number) for number in re.findall(r"[\d.]+", row[1])]
    limits = [getattr(AssessOptions(), f"{LIMITS[light]}_{colour}") for colour in ("green", "amber")]
    assert told == pytest.approx([100 * limit if "%" in row[1] else limit for limit in limits])

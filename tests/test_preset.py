"""Presets: precedence, types, and messages that name what is valid."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from hsi_fuse import preset as module
from hsi_fuse.errors import PresetError
from hsi_fuse.preset import SECTIONS, Preset, describe, load_preset, preset_names
from hsi_fuse.stages.table import STAGES


@dataclass(frozen=True)
class Odd:
    """A stage with a field of every type that a preset may hold."""

    count: int = 3
    rate: float = 0.1
    on: bool = False
    label: str = "a"
    limit: int | None = None
    size: int | str = "auto"
    range_nm: tuple[float, float] = (400.0, 900.0)
    widths: tuple[int, ...] = ()
    model: Literal["affine", "projective"] = "affine"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def __call__(self, *arguments: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of a preset whose one stage is `odd`."""
    monkeypatch.setattr(module, "STAGES", {"odd": Odd})
    path = tmp_path / "mine.toml"
    path.write_text('[[stages]]\nname = "odd"\nrate = 2\n')
    return str(path)


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads_and_describes_itself(name: str):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    shown = json.loads(json.dumps(describe(preset)))
    assert list(shown) == ["name", "description", *SECTIONS, "stages"]
    assert [stage["name"] for stage in shown["stages"]] == [n for n, _ in preset.stages]


def test_the_presets_that_the_manual_names_exist():
    assert {"interpolation", "draft", "fast"} <= set(preset_names())
    assert load_preset("interpolation").stages == ()
    assert [name for name, _ in load_preset("draft").stages] == ["map"]
    assert [name for name, _ in load_preset("fast").stages] == ["coupled"]
    for name in ("balanced", "best"):
        assert [stage for stage, _ in load_preset(name).stages] == ["coupled", "uafl"]
    assert [stage for stage, _ in load_preset("ssc").stages] == ["coupled", "ssc"]


def test_sections_are_fields_of_preset():
    assert set(SECTIONS) < {f.name for f in fields(Preset)}


def test_override_beats_toml_beats_default(odd: str):
    assert load_preset(odd).stages == (("odd", Odd(rate=2.0)),)
    assert load_preset(odd, ["odd.rate=3"]).stages == (("odd", Odd(rate=3.0)),)
    assert load_preset(odd, ["odd.rate=3", "odd.rate=4"]).stages == (("odd", Odd(rate=4.0)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count=7", 7),
        ("rate=1e-3", 1e-3),
        ("rate=.5", 0.5),
        ("on=True", True),
        ("label=5", "5"),
        ("label=none", "none"),
        ("label=a=b", "a=b"),
        ("limit=4", 4),
        ("limit=none", None),
        ("size=12", 12),
        ("size=auto", "auto"),
        ("range_nm=450,860.5", (450.0, 860.5)),
        ("range_nm=(450, 860)", (450.0, 860.0)),
        ("widths=8", (8,)),
        ("widths=8,16,32", (8, 16, 32)),
        ("model=projective", "projective"),
    ],
)
def test_overrides_are_read_as_the_fields_type(odd: str, text: str, expected: object):
    stage = load_preset(odd, [f"odd.{text}"]).stages[0][1]
    value = getattr(stage, text.partition("=")[0])
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("odd.count=x", ["odd.count", "a whole number", "got x"]),
        ("odd.count=2.5", ["odd.count", "a whole number", "got 2.5"]),
        ("odd.count=0", ["odd", "at least 1"]),
        ("odd.rate=nan", ["odd.rate", "a number"]),
        ("odd.on=1", ["odd.on", "true or false", "got 1"]),
        ("odd.limit=x", ["odd.limit", "a whole number or none"]),
        ("odd.range_nm=1,2,3", ["odd.range_nm", "a tuple of"]),
        ("odd.model=warp", ["odd.model", "'affine', 'projective'"]),
        ("odd.colour=1", ["unknown key 'colour'", "count", "rate"]),
        ("map.count=1", ["unknown table 'map'", "align", "sense", "assess", "odd"]),
        ("count=1", ["table.key=value"]),
        ("odd.count", ["table.key=value"]),
    ],
)
def test_bad_overrides_say_what_is_valid(odd: str, override: str, fragments: list[str]):
    with pytest.raises(PresetError) as caught:
        load_preset(odd, [override])
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("stages = [", ["not valid TOML"]),
        ("", ["stages"]),
        ("stages = 3", ["stages", "got 3"]),
        ("stages = []\ncolour = 1", ["unknown key 'colour'", "align", "stages"]),
        ("stages = []\nalign = 1", ["align must be a table", "got 1"]),
        ("stages = []\ndescription = 1", ["description must be a string"]),
        ("stages = []\n[align]\ncolour = 1", ["align", "unknown key 'colour'"]),
        ("[[stages]]\nrank = 1", ["stage 1 needs a name"]),
        ('[[stages]]\nname = "magic"', ["unknown stage 'magic'", *STAGES]),
    ],
)
def test_bad_files_say_what_is_valid(tmp_path: Path, text: str, fragments: list[str]):
    with pytest.raises(PresetError) as caught:
        load_preset(write(tmp_path, text))
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "text", ["count = true", 'count = "3"', "rate = true", "widths = 3", "label = 3", "on = 1"]
)
def test_toml_values_of_the_wrong_type_are_refused(odd: str, text: str):
    Path(odd).write_text(f'[[stages]]\nname = "odd"\n{text}\n')
    with pytest.raises(PresetError, match=rf"odd\.{text.partition(' ')[0]} must be"):
        load_preset(odd)


@pytest.mark.parametrize("name", ["drift", "nowhere.toml", "."])
def test_unknown_presets(name: str):
    with pytest.raises(PresetError, match=r"unknown preset .*draft|cannot be read"):
        load_preset(name)

"""`hsi-fuse presets`: what there is to choose from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from . import options


@click.group()
def presets() -> None:
    """List the presets or the sensors that ship, or show every setting of a preset."""


@presets.command("list")
@options.as_json
@options.loudness
def list_presets(as_json: bool) -> None:
    """List the presets that ship."""
    from hsi_fuse.preset import load_preset, preset_names

    found = {name: load_preset(name).description for name in preset_names()}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, description in found.items():
        click.echo(f"{name:<14}{description}")


@presets.command("sensors")
@options.as_json
@options.loudness
def list_sensors(as_json: bool) -> None:
    """List the nominal sensors that ship, and the bands of each."""
    from hsi_fuse.sensors.nominal import guide_edges, hsi_bands, sensor_names

    guides = {name: guide_edges(name) for name in sensor_names("guide")}
    spectrometers = {name: hsi_bands(name) for name in sensor_names("hsi")}
    if as_json:
        found = {name: {"centres_nm": list(c), "fwhm_nm": list(f)} for name, (c, f) in spectrometers.items()}
        click.echo(json.dumps({"guides": guides, "spectrometers": found}, indent=2))
        return
    click.echo("--guide-sensor")
    for name, edges in guides.items():
        bands = ", ".join(f"{band} {a:.0f}-{b:.0f}" for band, (a, b) in edges.items())
        click.echo(f"  {name:<12}{bands} nm")
    click.echo("--hsi-sensor")
    for name, (centres, _) in spectrometers.items():
        click.echo(f"  {name:<12}{len(centres)} bands, {centres.min():.0f}-{centres.max():.0f} nm")


@presets.command("show")
@click.argument("name")
@options.overrides
@options.as_json
@options.loudness
def show_preset(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show every setting of preset NAME (or of a TOML file), defaults included.

    The output is a preset itself: save it, change it, and give its path to `--preset`.
    """
    from hsi_fuse.preset import describe, load_preset

    settings = describe(load_preset(name, overrides))
    click.echo(json.dumps(settings, indent=2) if as_json else _toml(settings))


def _toml(settings: Mapping[str, Any]) -> str:
    stages = settings["stages"]
    lines = [f"# {settings['name']}", f"description = {_value(settings['description'])}"]
    if not stages:
        lines.append("stages = []")
    tables = [(f"[{key}]", table) for key, table in settings.items() if isinstance(table, Mapping)]
    for heading, table in tables + [("[[stages]]", stage) for stage in stages]:
        lines += ["", heading, *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if value is None:
        return '"none"'  # TOML has no null; presets read this word as None
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_value(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON spells strings, booleans and finite numbers as TOML does
    return str(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)

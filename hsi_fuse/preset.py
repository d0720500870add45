"""Preset: how much effort, as data. TOML -> frozen dataclasses.

A preset names what is not a default: the tables `[align]`, `[sense]`, `[assess]` and `[materials]`, and one
`[[stages]]` table for each method, in order. The fields of the dataclasses are the schema; there is no other.
Precedence: dataclass default < TOML < overrides. `stages = []` is plain interpolation.
"""

from __future__ import annotations

import math
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hsi_fuse.errors import PresetError
from hsi_fuse.materials import MaterialOptions
from hsi_fuse.problem import Stage
from hsi_fuse.quality.assess import AssessOptions
from hsi_fuse.registration.register import RegisterOptions
from hsi_fuse.sensors.sense import SenseOptions
from hsi_fuse.stages.table import STAGES

SECTIONS: Mapping[str, type[Any]] = {
    "align": RegisterOptions,
    "sense": SenseOptions,
    "assess": AssessOptions,
    "materials": MaterialOptions,
}
"""Tables of a preset besides the stages, and what each becomes."""

SHIPPED = "hsi_fuse.presets"


@dataclass(frozen=True)
class Preset:
    """Everything that a run may be told about its methods.

    Attributes
    ----------
    name : str
        Of a shipped preset, or the stem of the file.
    description : str
    align, sense, assess
        Options of the steps that every run takes.
    materials
        How the product is unmixed where its endmembers or abundances are asked for.
    stages : tuple of (str, Stage)
        The methods in order, each under its name in `STAGES`. Empty: interpolation.
    """

    name: str
    description: str = ""
    align: RegisterOptions = field(default_factory=RegisterOptions)
    sense: SenseOptions = field(default_factory=SenseOptions)
    assess: AssessOptions = field(default_factory=AssessOptions)
    materials: MaterialOptions = field(default_factory=MaterialOptions)
    stages: tuple[tuple[str, Stage], ...] = ()


def preset_names() -> list[str]:
    """Names of the presets that ship."""
    return sorted(
        item.name.removesuffix(".toml")
        for item in resources.files(SHIPPED).iterdir()
        if item.name.endswith(".toml")
    )


def load_preset(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Load a shipped preset by its name, or one's own by the path of its TOML file.

    Parameters
    ----------
    name_or_path : str or Path
        A shipped name wins over a file of the same name.
    overrides : sequence of str
        "table.key=value"; table is `align`, `sense`, `assess`, `materials` or the name of one of the
        preset's stages. The value is read as the field's type; "none" stands for None and commas separate
        a tuple.

    Raises
    ------
    PresetError
        Unknown preset, table, key or stage (the message lists the valid ones), or a value of the wrong type.
    """
    name, table = _read(str(name_or_path))
    where = f"preset {name}"
    _known(table, ["description", "stages", *SECTIONS], where, "key")
    description = table.pop("description", "")
    if not isinstance(description, str):
        raise PresetError(f"{where}: description must be a string, got {description!r}")
    stages = _stage_tables(table.pop("stages", None), where)
    for key in SECTIONS:
        if not isinstance(table.setdefault(key, {}), dict):
            raise PresetError(f"{where}: {key} must be a table [{key}], got {table[key]!r}")

    for override in overrides:
        target, key, text = _split(override)
        tables = [table[target]] if target in SECTIONS else [t for n, t in stages if n == target]
        if not tables:
            _known([target], [*SECTIONS, *dict(stages)], f"--set {override} on {where}", "table")
        for each in tables:
            *path, last = key.split(".")
            for step in path:  # into a group of settings
                if not isinstance(each.get(step), dict):
                    each[step] = {}
                each = each[step]
            each[last] = _Text(text)

    return Preset(
        name=name,
        description=description,
        stages=tuple((n, _build(STAGES[n], t, f"{where}: {n}")) for n, t in stages),
        **{key: _build(cls, table[key], f"{where}: {key}") for key, cls in SECTIONS.items()},
    )


def describe(preset: Preset) -> dict[str, Any]:
    """Every setting of a preset, defaults included; JSON-ready, laid out as its TOML."""
    return {
        "name": preset.name,
        "description": preset.description,
        **{key: asdict(getattr(preset, key)) for key in SECTIONS},
        "stages": [{"name": name, **asdict(stage)} for name, stage in preset.stages],  # type: ignore[call-overload]
    }


class _Text(str):
    """A value from an override: still text, to be read as the field's type."""


def _read(name_or_path: str) -> tuple[str, dict[str, Any]]:
    shipped = preset_names()
    try:
        if name_or_path in shipped:
            text = resources.files(SHIPPED).joinpath(f"{name_or_path}.toml").read_text("utf-8")
        elif name_or_path.endswith(".toml"):
            text = Path(name_or_path).read_text("utf-8")
        else:
            raise PresetError(
                f"unknown preset {name_or_path!r}; there are {', '.join(shipped)}, or give the path of a TOML"
            )
        return Path(name_or_path).name.removesuffix(".toml"), tomllib.loads(text)
    except OSError as e:
        raise PresetError(f"preset {name_or_path}: cannot be read ({e.strerror or e})") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise PresetError(f"preset {name_or_path}: not valid TOML: {e}") from e


def _stage_tables(value: object, where: str) -> list[tuple[str, dict[str, Any]]]:
    """[[stages]] -> [(name, hyperparameters)]."""
    if not isinstance(value, list) or not all(isinstance(t, dict) for t in value):
        raise PresetError(
            f"{where}: stages must be [[stages]] tables (`stages = []` is interpolation), got {value!r}"
        )
    stages = []
    for number, table in enumerate(value, 1):
        if "name" not in table:
            raise PresetError(f'{where}: stage {number} needs a name, e.g. name = "{next(iter(STAGES))}"')
        _known([table["name"]], STAGES, where, "stage")
        stages.append((table["name"], {key: v for key, v in table.items() if key != "name"}))
    return stages


def _split(override: str) -> tuple[str, str, str]:
    """ "table.key=value" -> its three parts."""
    left, equals, text = override.partition("=")
    target, dot, key = left.strip().partition(".")
    if not (equals and dot and target and key):
        raise PresetError(f"--set {override}: write it as table.key=value, e.g. {next(iter(STAGES))}.key=1")
    return target, key, text.strip()


def _known(given: Iterable[object], valid: Iterable[str], where: str, what: str) -> None:
    names = list(valid)
    for each in given:
        if each not in names:
            raise PresetError(f"{where}: unknown {what} {each!r}; valid: {', '.join(names) or 'none'}")


def _build(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """Make a frozen dataclass of a table, every value checked against the field's type."""
    hints = get_type_hints(cls)
    settable = [f.name for f in fields(cls) if f.init]
    _known(table, settable, where, "key")
    arguments = {}
    for key, value in table.items():
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            arguments[key] = _build(hints[key], value, f"{where}.{key}")
            continue
        try:
            arguments[key] = _fit(value, hints[key])
        except TypeError:
            shown = str(value) if isinstance(value, _Text) else repr(value)
            raise PresetError(f"{where}.{key} must be {_spell(hints[key])}, got {shown}") from None
    try:
        return cls(**arguments)
    except ValueError as e:  # what the dataclass itself refuses
        raise PresetError(f"{where}: {e}") from e


def _readings(text: str) -> Iterator[object]:
    """What the text of an override may stand for, the most specific first."""
    if text.lower() in ("true", "false"):
        yield text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            yield kind(text)
    items = [item.strip() for item in text.strip("()[] ").split(",")]
    if items != [text]:
        yield [next(_readings(item)) for item in items if item]
    yield text
    yield [next(_readings(text))]  # a tuple of one


def _fit(value: object, hint: Any) -> Any:
    """`value` as the type `hint`, lists as tuples and whole numbers as floats; TypeError where it is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, _Text):
        return _first((reading, hint) for reading in _readings(str(value)))
    if origin in (Union, types.UnionType):
        return _first(
            (value, each) for each in sorted(arguments, key=lambda a: a is str)
        )  # "none" is None first
    if origin is Literal and any(type(value) is type(a) and value == a for a in arguments):
        return value
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) == len(value):
            return tuple(map(_fit, value, kinds))
    if hint is type(None) and isinstance(value, str) and value.lower() == "none":  # TOML has no null
        return None
    if hint is float and type(value) in (int, float) and not math.isnan(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise TypeError


def _first(attempts: Iterable[tuple[object, Any]]) -> Any:
    """The first (value, hint) that fits."""
    for value, hint in attempts:
        with suppress(TypeError):
            return _fit(value, hint)
    raise TypeError


def _spell(hint: Any) -> str:
    """A type as a message shows it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_spell, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin is tuple:
        return "a tuple of " + (
            f"{_spell(arguments[0])}" if arguments[-1] is Ellipsis else ", ".join(map(_spell, arguments))
        )
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a string",
        type(None): "none",
    }
    return names.get(hint, str(hint))

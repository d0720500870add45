"""The manifest: what a batch has done, from which files and by which settings, so that it can go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from hsi_fuse import __version__
from hsi_fuse.errors import ReadError
from hsi_fuse.files import atomic
from hsi_fuse.record import versions
from hsi_fuse.scene import RunSettings

NAME = "manifest.json"
FORMAT = "hsi-fuse batch 1"
MOST_CHANGES = 3
"""Changed settings that are named one by one."""

State = Literal["started", "done", "failed"]


@dataclass(frozen=True)
class Stamp:
    """A file as it was: its content by its hash, and what shows cheaply that it is still the same.

    Attributes
    ----------
    size : int
        Bytes.
    mtime_ns : int
    sha256 : str
    """

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """One scene.

    Attributes
    ----------
    hsi, reference : str
    why : str
        They belong together.
    state : "started", "done" or "failed"
    inputs : mapping of path -> Stamp
        As they were before the scene was started.
    settings : str
        Key in the manifest's `settings`.
    version : str
        Of hsi-fuse.
    starts : int
        How often it was started.
    outputs : mapping of path -> Stamp
        Paths relative to the output folder.
    exit_code, message, warnings, seconds, peak_bytes, host, threads
        See `apart.Outcome`; of the last time that it ended.
    figures : mapping
        The report's light and a few of its figures.
    """

    hsi: str
    reference: str
    why: str
    state: State
    inputs: Mapping[str, Stamp]
    settings: str
    version: str = __version__
    starts: int = 1
    outputs: Mapping[str, Stamp] = field(default_factory=dict)
    exit_code: int = 0
    message: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_bytes: int | None = None
    host: str = ""
    threads: int | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


class Manifest:
    """The records of an output folder, and the file that holds them.

    Every change is on the disk, whole, when `record` returns.

    Attributes
    ----------
    folder : Path
    records : dict of scene name -> Record
    settings : dict of hash -> settings
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}
        self.settings: dict[str, Any] = {}

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """What a folder holds of an earlier batch; empty where it holds none.

        Raises
        ------
        ReadError
            It is not a manifest, or of another kind.
        """
        manifest, path = cls(folder), folder / NAME
        if not path.exists():
            return manifest
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ReadError(
                    f"{path} is of the kind {found['format']!r}, not {FORMAT!r}; choose another -o"
                )
            manifest.settings = found["settings"]
            manifest.records = {name: _record(entry) for name, entry in found["scenes"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ReadError(
                f"{path} is not the manifest of a batch ({type(error).__name__}: {error}); "
                "move it away to begin anew, or choose another -o"
            ) from error
        return manifest

    def record(self, name: str, record: Record) -> None:
        """Note what became of a scene.

        Raises
        ------
        WriteError
        """
        self.records[name] = record
        content = {
            "format": FORMAT,
            "versions": versions(),
            "settings": self.settings,
            "scenes": {key: asdict(entry) for key, entry in sorted(self.records.items())},
        }
        with atomic(self.folder / NAME) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def keep_settings(self, settings: Mapping[str, Any]) -> str:
        """The key under which settings stand."""
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.settings[key] = dict(settings)
        return key

    def why_again(
        self, name: str, files: Iterable[Path], reference: str, settings: Mapping[str, Any]
    ) -> str | None:
        """Why a scene has to be run; None where it is done and nothing has changed since."""
        record = self.records.get(name)
        if record is None:
            return "new"
        if record.reference != reference:
            return f"another reference than {record.reference}"
        now = {str(file) for file in files}
        if now != set(record.inputs):
            return f"other files: {', '.join(sorted(Path(f).name for f in now ^ set(record.inputs)))}"
        changed = [Path(f).name for f, stamp in record.inputs.items() if not is_still(Path(f), stamp)]
        if changed:
            return f"changed: {', '.join(changed)}"
        if self.settings.get(record.settings) != settings:
            return f"settings: {differences(self.settings.get(record.settings, {}), settings)}"
        if record.version != __version__:
            return f"version {record.version} -> {__version__}"
        if record.state == "failed":
            return f"failed before: {record.message}"
        if record.state == "started":
            return "cut short before"
        lost = [f for f, stamp in record.outputs.items() if not is_still(self.folder / f, stamp)]
        return f"gone or changed: {', '.join(lost)}" if lost else None


def stamp(path: Path) -> Stamp:
    """Read a file's content for its hash.

    Raises
    ------
    ReadError
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    return Stamp(facts.st_size, facts.st_mtime_ns, digest)


def is_still(path: Path, before: Stamp) -> bool:
    """Whether a file holds what it held; its content is read only where size or time of change differ."""
    try:
        facts = path.stat()
    except OSError:
        return False
    if facts.st_size != before.size:
        return False
    return facts.st_mtime_ns == before.mtime_ns or stamp(path).sha256 == before.sha256


def settings_of(how: RunSettings) -> dict[str, Any]:
    """Settings as the manifest keeps them: JSON, and the files that they name by their content.

    Raises
    ------
    ReadError
    """
    settings: dict[str, Any] = json.loads(json.dumps(how.to_dict()))
    if how.wavelengths is not None and how.wavelengths.exists():  # else it is a spectrometer's name
        settings["wavelengths"] = stamp(how.wavelengths).sha256
    for name, path in how.sensors.files.items():
        settings["sensors"][name] = stamp(path).sha256
    return settings


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which settings changed, in words."""
    old, new = _leaves(before), _leaves(now)
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    texts = [f"{key} {old.get(key, 'unset')} -> {new.get(key, 'unset')}" for key in keys[:MOST_CHANGES]]
    more = len(keys) - len(texts)
    return "; ".join(texts) + (f"; and {more} more" if more else "")


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value as one of dotted names; stages under their own names."""
    if isinstance(value, Mapping):
        items = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        items = [(str(entry.get("name", i)), entry) for i, entry in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, entry in items for k, v in _leaves(entry, f"{prefix}.{key}".strip(".")).items()}


def _record(entry: Mapping[str, Any]) -> Record:
    known = {f.name for f in fields(Record)}
    values = {key: value for key, value in entry.items() if key in known}
    for key in ("inputs", "outputs"):
        values[key] = {path: Stamp(**facts) for path, facts in values[key].items()}
    return Record(**{**values, "warnings": tuple(values["warnings"])})

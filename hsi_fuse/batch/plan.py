"""What a batch would do: the scenes of a folder, each with its reference, its job and what that needs."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsi_fuse.batch.discover import Found, Image, find_images, look_at
from hsi_fuse.batch.manifest import Manifest, settings_of
from hsi_fuse.batch.pairing import Pairing, pair_up, read_pairs
from hsi_fuse.blocks import peak_bytes
from hsi_fuse.errors import ReadError
from hsi_fuse.planning import pixel_ratio
from hsi_fuse.scene import Job, RunSettings

SUFFIXES = {"GTiff": ".tif", "ENVI": ".img", "COG": ".tif"}


@dataclass(frozen=True)
class Task:
    """A scene to be run.

    Attributes
    ----------
    name : str
        Of its folder, and the stem of its product.
    hsi, reference : Image
    why : str
        They belong together.
    others : tuple of str
        Further references that could be meant, the likeliest first.
    job : Job
    scale : int
        Fine pixels per HSI pixel.
    memory_bytes : int
        Rough peak.
    """

    name: str
    hsi: Image
    reference: Image
    why: str
    others: tuple[str, ...]
    job: Job
    scale: int
    memory_bytes: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it reads."""
        return tuple(dict.fromkeys((*self.hsi.files, *self.reference.files)))

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.job.output.with_name("log.txt")


@dataclass(frozen=True)
class BatchPlan:
    """What a batch would do.

    Attributes
    ----------
    folder, out : Path
    settings : RunSettings
    tasks : tuple of Task
    unpaired : tuple of Pairing
        HSIs without a reference.
    idle : tuple of Image
        References that no HSI has.
    unreadable, left_out : tuple of (Path, str)
        See `discover.Found`.
    """

    folder: Path
    out: Path
    settings: RunSettings
    tasks: tuple[Task, ...]
    unpaired: tuple[Pairing, ...] = ()
    idle: tuple[Image, ...] = ()
    unreadable: tuple[tuple[Path, str], ...] = ()
    left_out: tuple[tuple[Path, str], ...] = ()

    def reasons(self, manifest: Manifest) -> dict[str, str | None]:
        """Why each scene has to be run, by its name; None where it is done and nothing has changed."""
        settings = settings_of(self.settings)
        return {
            task.name: manifest.why_again(task.name, task.files, str(task.reference.path), settings)
            for task in self.tasks
        }

    def to_dict(self, manifest: Manifest) -> dict[str, Any]:
        """All of it, JSON-ready."""
        reasons = self.reasons(manifest)
        return {
            "scenes": [
                {
                    "name": task.name,
                    "hsi": str(task.hsi.path),
                    "reference": str(task.reference.path),
                    "why": task.why,
                    "alternatives": list(task.others),
                    "scale": task.scale,
                    "product": [
                        task.hsi.bands, task.hsi.grid.height * task.scale, task.hsi.grid.width * task.scale,
                    ],
                    "memory_bytes": task.memory_bytes,
                    "to_do": reasons[task.name],
                    "output": str(task.job.output),
                }
                for task in self.tasks
            ],
            "without_reference": [{"hsi": str(p.hsi.path), "why": p.why} for p in self.unpaired],
            "without_hsi": [str(image.path) for image in self.idle],
            "unreadable": [{"file": str(path), "why": why} for path, why in self.unreadable],
            "left_out": [{"file": str(path), "why": why} for path, why in self.left_out],
        }  # fmt: skip


def plan_batch(
    folder: str | Path,
    out: str | Path,
    settings: RunSettings,
    *,
    pairs: str | Path | None = None,
    match: str | None = None,
) -> BatchPlan:
    """Find the scenes of a folder. Reads headers, no pixels, and writes nothing.

    Parameters
    ----------
    folder : path
    out : path
        Where the products go; not looked into.
    settings : RunSettings
    pairs : path, optional
        See `pairing.read_pairs`; nothing is searched then.
    match : str, optional
        The pattern of `pairing.pair_up`.

    Raises
    ------
    ReadError
        The folder or the table of pairs cannot be read, or there is no pair.
    PresetError
        The pattern is not valid.
    """
    # the manifest must mean the same files from wherever the command is called
    folder, out = Path(os.path.abspath(folder)), Path(os.path.abspath(out))
    settings = _anywhere(settings)
    if pairs is not None:
        pairings, unreadable = _as_written(read_pairs(Path(pairs), folder))
        found = Found((), (), unreadable, ())
    else:
        found = find_images(folder, without=out)
        pairings = pair_up(found.hsis, found.references, folder, match)
    paired = [(p, p.reference) for p in pairings if p.reference is not None]
    used = {reference.path for _, reference in paired}
    names = _names([(p.hsi.path, r.path) for p, r in paired], folder)
    plan = BatchPlan(
        folder,
        out,
        settings,
        tuple(_task(name, p, r, out, settings) for name, (p, r) in zip(names, paired, strict=True)),
        tuple(p for p in pairings if p.reference is None),
        tuple(image for image in found.references if image.path not in used),
        found.unreadable,
        found.left_out,
    )
    if not plan.tasks and not plan.unreadable:
        why = "; ".join(f"{p.hsi.path.name}: {p.why}" for p in plan.unpaired[:3])
        raise ReadError(
            f"{folder} holds no pair of a hyperspectral image and a reference: {len(found.hsis)} "
            f"hyperspectral images, {len(found.references)} references" + (f" ({why})" if why else "")
        )
    return plan


def _anywhere(settings: RunSettings) -> RunSettings:
    """The same settings with absolute paths: a worker of a cluster has another current folder."""
    table, sensors = settings.wavelengths, settings.sensors
    if table is not None and table.exists():  # else it is a spectrometer's name
        table = Path(os.path.abspath(table))
    named = {key: type(getattr(sensors, key))(os.path.abspath(path)) for key, path in sensors.files.items()}
    return replace(settings, wavelengths=table, sensors=replace(sensors, **named))


def _as_written(
    pairs: Iterable[tuple[Path, Path]],
) -> tuple[tuple[Pairing, ...], tuple[tuple[Path, str], ...]]:
    """Pairs as the table has them, and those that cannot be read."""
    pairings, unreadable = [], []
    for hsi, reference in pairs:
        try:
            pairings.append(Pairing(look_at(hsi), look_at(reference), "as --pairs says"))
        except ReadError as error:
            unreadable.append((hsi, str(error)))
    return tuple(pairings), tuple(unreadable)


def _task(name: str, pairing: Pairing, reference: Image, out: Path, settings: RunSettings) -> Task:
    hsi = pairing.hsi
    scale = settings.scale or max(round(pixel_ratio(hsi.grid, reference.grid)), 1)
    output = out / name / f"{name}{SUFFIXES[settings.driver]}"
    threads = settings.threads or os.cpu_count() or 1
    memory = peak_bytes((hsi.bands, *hsi.grid.shape), scale, threads, settings.max_memory)
    return Task(
        name,
        hsi,
        reference,
        pairing.why,
        tuple(f"{match.reference.path.name} ({match.why})" for match in pairing.alternatives),
        # what may stand there is of other inputs or settings
        Job(hsi.path, reference.path, output, settings, overwrite=True),
        scale,
        memory,
    )


def _names(pairs: Sequence[tuple[Path, Path]], root: Path) -> list[str]:
    """A name for each scene that stays the same when others come and go, but where two would share one."""
    tries = [[_plain(hsi.with_suffix(""), root) for hsi, _ in pairs]]
    tries.append([_plain(hsi, root).replace(".", "_") for hsi, _ in pairs])
    tries.append(
        [
            f"{first}_{hashlib.sha256(f'{hsi}|{reference}'.encode()).hexdigest()[:8]}"
            for first, (hsi, reference) in zip(tries[0], pairs, strict=True)
        ]
    )
    names = tries[0]
    for other in tries[1:]:
        seen = Counter(name.lower() for name in names)  # file systems may not tell cases apart
        names = [b if seen[a.lower()] > 1 else a for a, b in zip(names, other, strict=True)]
    return names


def _plain(path: Path, root: Path) -> str:
    """A path below the folder as a single name."""
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return "_".join(inside.parts)

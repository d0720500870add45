"""What the report says of a registration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from affine import Affine

from hsi_fuse.grid import Grid
from hsi_fuse.registration.joint import Registered


def registration_figures(found: Registered, start: Affine, grid: Grid, scale: int) -> dict[str, Any]:
    """Figures of the search and the fit, JSON-ready; pixels are the product's, metres on the ground.

    Parameters
    ----------
    found : Registered
    start : Affine
        HSI pixel -> guide pixel, by the georeferencing.
    grid : Grid
        Of the HSI.
    scale : int
    """
    height, width = grid.shape
    centre = (width / 2, height / 2)
    x, y = ~start * (found.hsi_to_guide * centre)
    shift = (x - centre[0], y - centre[1])
    linear = (~start * found.hsi_to_guide)[:6]
    metres = grid.gsd_m
    a, b, _, d, e, _ = grid.transform[:6]
    unit = grid.metres_per_unit((grid.transform * centre)[1])
    east, north = (
        float(u * (p * shift[0] + q * shift[1])) for u, p, q in zip(unit, (a, d), (b, e), strict=True)
    )
    # HSI content is found at georeferenced place + shift in the guide: it lies that far the other way itself
    found_at = {"content_offset_east_m": -east, "content_offset_north_m": -north}
    evidence = found.evidence
    out: dict[str, Any] = {
        "probability": evidence.probability,
        "information": evidence.information,
        "tied": evidence.tied,
        "unexplained": evidence.unexplained,
        "guide_response": [
            {"exponent": r.exponent, "black": r.black, "span": r.span} for r in found.responses
        ],
        "shift_px": [scale * s for s in shift],
        "shift_m": float(np.hypot(east, north)),
        **(found_at if grid.georeferenced else {}),
        "rotation_deg": float(np.degrees(np.arctan2(linear[3] - linear[1], linear[0] + linear[4]))),
        "scale_change": float(np.sqrt(abs(linear[0] * linear[4] - linear[1] * linear[3]))),
        "standard_error_px": scale * evidence.deviation_hsi_px,
        "standard_error_m": metres * evidence.deviation_hsi_px,
        "local_amplitude_px": scale * found.fitted.amplitude,
        "local_length_px": scale * found.fitted.length,
        "explained": 1 - found.fitted.left,
        "covered": float(found.guide_weight.mean()),
    }
    for name, points in (("", found.after), ("before_", found.before)):
        length = np.hypot(points[:, 2], points[:, 3]) * scale
        some = len(points) > 0
        out |= {
            f"{name}tie_points": len(points),
            f"{name}rrmse_px": float(np.sqrt((length**2).mean())) if some else None,
            f"{name}rrmse_m": float(np.sqrt((length**2).mean())) * metres / scale if some else None,
            f"{name}ce90_px": float(np.quantile(length, 0.9)) if some else None,
            f"{name}bias_px": (points[:, 2:].mean(0) * scale).tolist() if some else None,
        }
    return out


def response_in_words(bands: Sequence[Mapping[str, Any]]) -> str:
    """What `guide_response` says of the guide: "band 4 is inverted; gamma 2.2", or "linear"."""
    words = []
    inverted = [str(i + 1) for i, band in enumerate(bands) if band["span"] < 0]
    if len(inverted) == 1:
        words.append(f"band {inverted[0]} is inverted")
    elif inverted:
        words.append(f"bands {', '.join(inverted)} are inverted")
    gammas = sorted({f"{band['exponent']:.2g}" for band in bands}, key=float)
    if gammas not in ([], ["1"]):
        words.append("gamma " + ", ".join(gammas))
    return "; ".join(words) or "linear"

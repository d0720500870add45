"""The named lights of the verdict: one figure each, and the limits between green, amber and red.

A light is `none` where its figure could not be formed. The limits were fixed on half of the benchmark's
scenes and one real pair, and tried on the other half: `benchmarks/sabotage.py`, docs/lab-notes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ORDER = ("none", "green", "amber", "red")

Figures = Mapping[str, Any]
Light = dict[str, Any]


@dataclass(frozen=True)
class AssessOptions:
    """Thresholds and sizes of the assessment; a preset may set them.

    Attributes
    ----------
    registration_green, registration_amber : float
        Residual registration error that the aligner measured on held-out tie points (RMSE), fine pixels.
    probability_green, probability_amber : float
        Of the reference showing this place, as the aligner has it.
    place_green, place_amber : float
        Share of the reference's variance, at the input's resolution, that the input does not explain.
    position_green, position_amber : float
        Shift of the reference, or of the product, against the input, found again, fine pixels.
    response_green, response_amber : float
        What the learned responses leave beyond the best non-negative ones, over what these leave, in the
        combination of reference bands that shows it best.
    blur_green, blur_amber : float
        How much better a Gaussian of another width would explain the reference (ratio minus 1).
    sam_green, sam_amber : float
        Median spectral angle of consistency, degrees.
    noise_factor : float
        Both limits are raised to at least this many times the angle that the HSI's own noise makes.
    bias_green, bias_amber : float
        Median over bands of |bias| / mean, or how much too bright or too dark a part of the scene is
        beyond chance (`checks.part_gain`).
    band_green, band_amber : float
        What the degraded product misses of the band that stands out most, over what a band may miss
        (`checks.standing_out`).
    detail_green, detail_amber : float
        Share of the reference's fine detail that the product misses beyond what noise hides, in the
        combination of reference bands of which it misses most.
    sharpness_green, sharpness_amber : float
        Contrast of fine detail over that of the guide, worst band, or of detail of the input's pixels over
        the input's: distance from 1.
    noise_green, noise_amber : float
        Noise of the product over that of the input, median over bands.
    synthesis_green, synthesis_amber : float
        PSNR (dB) by which the best simpler method may beat the product at reduced resolution. Red where
        interpolation beats it at all.
    negative_green, negative_amber : float
        How much brighter the product's bands would be without their negative values, share, beyond the
        same of the input. As `bias`, since it is one.
    tie_db, tie_share : float
        Differences in PSNR (dB), and in spectral angle (share), that count as equal.
    smallest : int
        HSI pixels along each side that the degraded pair must keep.
    """

    registration_green: float = 0.5
    registration_amber: float = 1.0
    probability_green: float = 0.9
    probability_amber: float = 0.5
    place_green: float = 0.2
    place_amber: float = 0.5
    position_green: float = 0.5
    position_amber: float = 1.0
    response_green: float = 1.15
    response_amber: float = 10.0
    blur_green: float = 0.2
    blur_amber: float = 1.0
    sam_green: float = 2.0
    sam_amber: float = 5.0
    noise_factor: float = 1.5
    bias_green: float = 0.01
    bias_amber: float = 0.03
    band_green: float = 1.8
    band_amber: float = 10.0
    detail_green: float = 0.12
    detail_amber: float = 0.4
    sharpness_green: float = 0.12
    sharpness_amber: float = 0.3
    noise_green: float = 0.7
    noise_amber: float = 1.5
    synthesis_green: float = 0.5
    synthesis_amber: float = 3.0
    negative_green: float = 0.01
    negative_amber: float = 0.03
    tie_db: float = 0.05
    tie_share: float = 0.02
    smallest: int = 16


def all_lights(figures: Figures, options: AssessOptions) -> list[Light]:
    """Every light of the quality mapping, grouped as ISO 19157 groups quality."""
    return [make(figures, options) for make in LIGHTS]


def _light(name: str, what: str, unit: str, value: float | None, green: float, amber: float) -> Light:
    """A light whose limits rise or fall from green to amber."""
    if value is None:
        light = "none"
    elif green <= amber:
        light = "green" if value <= green else "amber" if value <= amber else "red"
    else:
        light = "green" if value >= green else "amber" if value >= amber else "red"
    entry: Light = {"name": name, "what": what, "unit": unit, "light": light, "value": value}
    return entry | {"green": green, "amber": amber}


def _largest(values: list[float | None]) -> float | None:
    found = [abs(v) for v in values if v is not None]
    return max(found, default=None)


def _median(values: list[float | None]) -> float | None:
    found = sorted(abs(v) for v in values if v is not None)
    return found[len(found) // 2] if found else None


def _mean(values: list[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return sum(found) / len(found) if found else None


def _registration(figures: Figures, options: AssessOptions) -> Light:
    """How far the reference is displaced; or, where that is the graver doubt, whether it shows this place."""
    found = figures["registration"]
    value = next((found[k] for k in ("rrmse_px", "error_px") if found.get(k) is not None), None)
    displaced = _light(
        "registration", "the reference may be displaced", "fine px", value,
        options.registration_green, options.registration_amber,
    )  # fmt: skip
    elsewhere = _light(
        "registration", "the reference may show another place", "probability", found.get("probability"),
        options.probability_green, options.probability_amber,
    )  # fmt: skip
    graver = ORDER.index(elsewhere["light"]) > max(ORDER.index(displaced["light"]), ORDER.index("green"))
    return elsewhere if graver else displaced


def _position(figures: Figures, options: AssessOptions) -> Light:
    part = figures["checks"]
    shifts = [part["sensors"].get("shift_px"), part["product_shift_px"]]
    lengths = [(x * x + y * y) ** 0.5 for x, y in (s for s in shifts if s is not None)]
    return _light(
        "position", "reference or product lie beside the input", "fine px", max(lengths, default=None),
        options.position_green, options.position_amber,
    )  # fmt: skip


def _place(figures: Figures, options: AssessOptions) -> Light:
    part = figures["checks"]["sensors"]
    value = _mean(part["unexplained"]) if part["assessable"] else None
    return _light(
        "place", "the reference does not show what the input shows", "unexplained", value,
        options.place_green, options.place_amber,
    )  # fmt: skip


def _response(figures: Figures, options: AssessOptions) -> Light:
    part = figures["checks"]["sensors"]
    value = part["response_misfit"] if part["assessable"] else None
    return _light(
        "response", "the learned spectral responses do not fit", "times what the best leave", value,
        options.response_green, options.response_amber,
    )  # fmt: skip


def _blur(figures: Figures, options: AssessOptions) -> Light:
    part = figures["checks"]["sensors"]
    return _light(
        "blur", "the learned blur (PSF) does not fit", "gain by another width",
        part["blur_excess"] if part["assessable"] else None, options.blur_green, options.blur_amber,
    )  # fmt: skip


def _spectra(figures: Figures, options: AssessOptions) -> Light:
    part = figures["consistency"]
    floor = options.noise_factor * (part["noise_angle_deg"] or 0.0)
    value = part["learned_psf"]["product"]["sam_deg"]["median"]
    green, amber = max(options.sam_green, floor), max(options.sam_amber, floor)
    return _light("spectra", "spectra differ from the measured ones", "° median", value, green, amber)


def _radiometry(figures: Figures, options: AssessOptions) -> Light:
    bias = _median(figures["consistency"]["learned_psf"]["product"]["bands"]["relative_bias"])
    value = None if bias is None else 100 * max(bias, figures["checks"]["part_gain"])
    return _light(
        "radiometry", "the level of the bands, or of a part of the scene, is off", "% of the level", value,
        100 * options.bias_green, 100 * options.bias_amber,
    )  # fmt: skip


def _bands(figures: Figures, options: AssessOptions) -> Light:
    value = _largest(figures["consistency"]["learned_psf"]["product"]["bands"]["stands_out"])
    return _light(
        "bands", "single bands do not reproduce the input", "times what a band may miss", value,
        options.band_green, options.band_amber,
    )  # fmt: skip


def _detail(figures: Figures, options: AssessOptions) -> Light:
    part = figures["spatial"]
    value = part["product"]["missed_highpass"] if part["assessable"] else None
    return _light(
        "detail", "fine detail does not follow the reference", "missed, worst colour", value,
        options.detail_green, options.detail_amber,
    )  # fmt: skip


def _sharpness(figures: Figures, options: AssessOptions) -> Light:
    part = figures["spatial"]
    gains = [*(part["product"]["gain_highpass"] if part["assessable"] else []), figures["checks"]["contrast"]]
    return _light(
        "sharpness", "detail has another contrast than in the reference or the input", "off 1, worst",
        _largest([None if g is None else g - 1 for g in gains]),
        options.sharpness_green, options.sharpness_amber,
    )  # fmt: skip


def _noise(figures: Figures, options: AssessOptions) -> Light:
    return _light(
        "noise", "the product is noisy", "of the input's noise", figures["checks"]["noise"],
        options.noise_green, options.noise_amber,
    )  # fmt: skip


def _synthesis(figures: Figures, options: AssessOptions) -> Light:
    """By how much the product beats the best simpler method; red where interpolation has the better PSNR."""
    part = figures["synthesis"]
    value = lost = None
    if part["assessable"]:
        scores = {name: score.get("psnr_db") for name, score in part["results"].items()}
        others = [v for name, v in scores.items() if name != "product" and v is not None]
        if scores["product"] is not None and others:
            value = scores["product"] - max(others)
        lost = ("interpolation", "psnr_db") in [(w["name"], w["figure"]) for w in part["baseline_wins"]]
    entry = _light(
        "synthesis", "a simpler method does better at reduced resolution", "dB over the best simpler method",
        value, -options.synthesis_green, -options.synthesis_amber,
    )  # fmt: skip
    return entry | {"light": "red"} if lost else entry


def _integrity(figures: Figures, options: AssessOptions) -> Light:
    part = figures["integrity"]
    value: float | None = None
    if part["negative_weight_pct"] is not None and part["negative_weight_input_pct"] is not None:
        value = max(0.0, part["negative_weight_pct"] - part["negative_weight_input_pct"])
    entry = _light(
        "integrity", "the product has negative values that weigh", "% of the level", value,
        100 * options.negative_green, 100 * options.negative_amber,
    )  # fmt: skip
    if part["not_finite"]:
        entry.update(light="red", what=f"{part['not_finite']} values are not finite")
    return entry


LIGHTS: tuple[Callable[[Figures, AssessOptions], Light], ...] = (
    *(_registration, _position, _place),  # positional quality
    *(_response, _blur),  # the model that everything rests on
    *(_spectra, _radiometry, _bands),  # thematic quality
    *(_detail, _sharpness, _noise),
    *(_synthesis,),
    *(_integrity,),  # logical consistency and completeness
)

"""From figures to a traffic light and three plain sentences.

Lights are `green`, `amber`, `red` or `none` (could not be assessed). The scene's light is the worst of its
lights; without a registration figure it is at best amber, since nothing else shows a displaced reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORDER = ("none", "green", "amber", "red")


@dataclass(frozen=True)
class AssessOptions:
    """Thresholds and sizes of the assessment; a preset may set them.

    Attributes
    ----------
    sam_green, sam_amber : float
        Median spectral angle of consistency, degrees.
    noise_factor : float
        Both limits are raised to at least this many times the angle that the HSI's own noise makes.
    bias_green, bias_amber : float
        Median over bands of |bias| / mean.
    registration_green, registration_amber : float
        Residual registration error (relative RMSE), fine pixels.
    probability_green, probability_amber : float
        Of the reference showing this place.
    detail_green, detail_amber : float
        Mean over guide bands of the high-pass correlation with the guide.
    negative_green, negative_amber : float
        Share of negative values that the product has more than the input.
    tie_db, tie_share : float
        Differences in PSNR (dB), and in spectral angle (share), that count as equal.
    smallest : int
        HSI pixels along each side that the degraded pair must keep.
    block_values : int
        Values of the cube mixed at one time.
    """

    sam_green: float = 2.0
    sam_amber: float = 5.0
    noise_factor: float = 1.5
    bias_green: float = 0.01
    bias_amber: float = 0.03
    registration_green: float = 0.5
    registration_amber: float = 1.0
    probability_green: float = 0.9
    probability_amber: float = 0.5
    detail_green: float = 0.9
    detail_amber: float = 0.7
    negative_green: float = 0.01
    negative_amber: float = 0.05
    tie_db: float = 0.05
    tie_share: float = 0.02
    smallest: int = 16
    block_values: int = 1 << 24


def judge(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    """The `verdict` part of the quality mapping: `light`, `sentences` and the `lights` it rests on."""
    lights = [
        _registration(figures, options),
        _spectra(figures, options),
        _radiometry(figures, options),
        _detail(figures, options),
        _synthesis(figures),
        _integrity(figures, options),
    ]
    worst = max((entry["light"] for entry in lights), key=ORDER.index)
    if lights[0]["light"] == "none" and worst == "green":
        worst = "amber"
    sentences = [_use(worst, lights, figures), _limits(figures), _evidence(figures)]
    return {"light": worst, "sentences": sentences, "lights": lights}


def baseline_wins(results: Mapping[str, Mapping[str, Any]], options: AssessOptions) -> list[dict[str, str]]:
    """Who beats the product in the synthesis, and by which figure: `name`, `figure`, `text`."""
    product, wins = results["product"], []
    for name, other in results.items():
        if name == "product" or "failed" in other:
            continue
        if _above(other["psnr_db"], product["psnr_db"], options.tie_db):
            text = f"PSNR {other['psnr_db']:.2f} dB against {product['psnr_db']:.2f} dB"
            wins.append({"name": name, "figure": "psnr_db", "text": text})
        mine, theirs = product["sam_deg"]["mean"], other["sam_deg"]["mean"]
        if mine is not None and theirs is not None and theirs < mine * (1 - options.tie_share):
            text = f"mean spectral angle {theirs:.2f}° against {mine:.2f}°"
            wins.append({"name": name, "figure": "sam_deg", "text": text})
    return wins


def own_warnings(figures: Mapping[str, Any]) -> list[str]:
    """What the analyst should know of these figures."""
    texts = []
    synthesis, spatial, consistency = figures["synthesis"], figures["spatial"], figures["consistency"]
    for win in synthesis.get("baseline_wins", []):
        texts.append(f"At reduced resolution '{win['name']}' beats the product: {win['text']}.")
    for name, score in synthesis.get("results", {}).items():
        if "failed" in score:
            texts.append(f"At reduced resolution '{name}' failed: {score['failed']}")
    if spatial["assessable"]:
        pairs = zip(spatial["product"]["cc_highpass"], spatial["interpolation"]["cc_highpass"], strict=True)
        lost = [str(i + 1) for i, (a, b) in enumerate(pairs) if a is not None and b is not None and b > a]
        if lost:
            texts.append(
                f"Interpolation follows the reference's detail better in its band(s) {', '.join(lost)}."
            )
    learned = consistency["learned_psf"]
    mine, plain_one = learned["product"]["sam_deg"]["median"], learned["interpolation"]["sam_deg"]["median"]
    if mine is not None and plain_one is not None and mine > 1.02 * plain_one:
        texts.append(
            f"Degraded to the input's resolution, interpolation is nearer to it than the product "
            f"(median spectral angle {plain_one:.2f}° against {mine:.2f}°)."
        )
    return texts


def _above(a: float | None, b: float | None, margin: float) -> bool:
    return a is not None and b is not None and a > b + margin


def _light(
    name: str, what: str, unit: str, value: float | None, green: float, amber: float
) -> dict[str, Any]:
    """A light whose limits rise or fall from green to amber."""
    if value is None:
        light = "none"
    elif green <= amber:
        light = "green" if value <= green else "amber" if value <= amber else "red"
    else:
        light = "green" if value >= green else "amber" if value >= amber else "red"
    entry = {"name": name, "what": what, "unit": unit, "light": light, "value": value}
    return entry | {"green": green, "amber": amber}


def _registration(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
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


def _spectra(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    part = figures["consistency"]
    floor = options.noise_factor * (part["noise_angle_deg"] or 0.0)
    value = part["learned_psf"]["product"]["sam_deg"]["median"]
    green, amber = max(options.sam_green, floor), max(options.sam_amber, floor)
    return _light("spectra", "spectra differ from the measured ones", "° median", value, green, amber)


def _radiometry(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    values = figures["consistency"]["learned_psf"]["product"]["bands"]["relative_bias"]
    sizes = sorted(abs(v) for v in values if v is not None)
    value = 100 * sizes[len(sizes) // 2] if sizes else None
    return _light(
        "radiometry", "the level of the bands is off", "% median bias", value,
        100 * options.bias_green, 100 * options.bias_amber,
    )  # fmt: skip


def _detail(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    part = figures["spatial"]
    found = [v for v in part["product"]["cc_highpass"] if v is not None] if part["assessable"] else []
    value = sum(found) / len(found) if found else None
    return _light(
        "detail", "fine detail does not follow the reference", "correlation", value,
        options.detail_green, options.detail_amber,
    )  # fmt: skip


def _synthesis(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Red where interpolation has the better PSNR, amber where any method wins anything."""
    part = figures["synthesis"]
    light, value = "none", None
    if part["assessable"]:
        product, plain = part["results"]["product"], part["results"].get("interpolation", {})
        if product["psnr_db"] is not None and plain.get("psnr_db") is not None:
            value = product["psnr_db"] - plain["psnr_db"]
        lost = [(w["name"], w["figure"]) for w in part["baseline_wins"]]
        light = "red" if ("interpolation", "psnr_db") in lost else "amber" if lost else "green"
    return {
        "name": "synthesis", "what": "a simpler method does better at reduced resolution",
        "unit": "dB over interpolation", "light": light, "value": value, "green": None, "amber": None,
    }  # fmt: skip


def _integrity(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    part = figures["integrity"]
    value: float | None = None
    if part["negative_pct"] is not None and part["negative_input_pct"] is not None:
        value = max(0.0, part["negative_pct"] - part["negative_input_pct"])
    entry = _light(
        "integrity", "the product has negative values that the input has not", "% negative added", value,
        100 * options.negative_green, 100 * options.negative_amber,
    )  # fmt: skip
    if part["not_finite"]:
        entry.update(light="red", what=f"{part['not_finite']} values are not finite")
    return entry


def _use(light: str, lights: list[dict[str, Any]], figures: Mapping[str, Any]) -> str:
    median = figures["consistency"]["learned_psf"]["product"]["sam_deg"]["median"]
    if light == "green":
        return (
            "Good for mapping and spectral analysis at the fine scale: seen at the input's resolution "
            f"the product reproduces the measured spectra to {_degrees(median)} (median)."
        )
    worst = [entry["what"] for entry in lights if entry["light"] == light]
    if not worst:
        return "Use it with care: no figure says how well the reference is registered."
    what = "; ".join(worst)
    if light == "red":
        return f"Do not use it for measurements, look first: {what}."
    return f"Good for looking and for broad classes, with care for measurements: {what}."


def _limits(figures: Mapping[str, Any]) -> str:
    part = figures["integrity"]
    limits = []
    outside = part["without_guide_pct"]
    if outside >= 0.5:
        limits.append(
            f"outside the reference's footprint ({outside:.0f} % of the product) it is interpolation "
            "and holds no new detail"
        )
    if part["inferred_bands"]:
        limits.append(
            f"in {part['inferred_bands']} of {figures['scene']['bands']} bands, which the reference does not "
            "see, fine detail is inferred from the other bands"
        )
    if not limits:
        return "Single fine pixels are still estimates: do not base a decision on one of them."
    text = "; ".join(limits)
    return f"Not for everything: {text}."


def _evidence(figures: Mapping[str, Any]) -> str:
    part = figures["synthesis"]
    if not part["assessable"]:
        return (
            f"How well the method recovers known detail on this scene was not assessable: {part['reason']}."
        )
    product, plain = part["results"]["product"], part["results"].get("interpolation", {})
    if product["psnr_db"] is None or plain.get("psnr_db") is None:
        return f"The method was repeated at {part['factor']} times coarser pixels, where the answer is known."
    gain = product["psnr_db"] - plain["psnr_db"]
    mine, other = (_degrees(result["sam_deg"]["mean"]) for result in (product, plain))
    return (
        f"Repeated on this scene at {part['factor']} times coarser pixels, where the answer is known, "
        f"the method is {abs(gain):.1f} dB {'better' if gain >= 0 else 'worse'} than interpolation "
        f"(spectral angle {mine} against {other})."
    )


def _degrees(value: float | None) -> str:
    return "an unknown angle" if value is None else f"{value:#.2g}".rstrip(".") + "°"

"""From figures to a traffic light and three plain sentences.

Lights are `green`, `amber`, `red` or `none` (could not be assessed). The scene's light is the worst of its
lights; without a registration figure it is at best amber, since nothing else shows a displaced reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsi_fuse.errors import QualityError
from hsi_fuse.quality.lights import ORDER, AssessOptions, all_lights


def judge(figures: Mapping[str, Any], options: AssessOptions) -> dict[str, Any]:
    """The `verdict` part of the quality mapping: `light`, `sentences` and the `lights` it rests on."""
    lights = all_lights(figures, options)
    worst = max((entry["light"] for entry in lights), key=ORDER.index)
    if lights[0]["light"] == "none" and worst == "green":
        worst = "amber"
    sentences = [_use(worst, lights, figures), _limits(figures), _evidence(figures)]
    return {"light": worst, "sentences": sentences, "lights": lights}


def gate(figures: Mapping[str, Any], fail_on: str) -> None:
    """Let a verdict pass or not.

    Parameters
    ----------
    figures : mapping
        Of `Quality`.
    fail_on : "red", "amber" or "never"
        The mildest light that fails.

    Raises
    ------
    QualityError
        Names the lights that failed and their figures.
    """
    if fail_on == "never":
        return
    verdict = figures["verdict"]
    refused = ORDER[ORDER.index(fail_on) :]
    if verdict["light"] not in refused:
        return
    failed = [e for e in verdict["lights"] if e["light"] in refused]
    told = "; ".join(f"{e['name']} is {e['light']} ({e['value']} {e['unit']})" for e in failed)
    raise QualityError(
        f"the quality gate --fail-on {fail_on} failed: {told or 'no figure of the registration'}"
    )


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

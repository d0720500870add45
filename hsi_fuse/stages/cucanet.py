"""Stage `cucanet`: CUCaNet, coupled unmixing autoencoders with cross-attention that learn the sensors too."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.classical import keep_guided
from hsi_fuse.crops import Crop, Crops
from hsi_fuse.losses import mean_misfit, sparsity, sum_to_one
from hsi_fuse.nets.coupled_autoencoders import CoupledAutoencoders
from hsi_fuse.nets.sensor_layers import SensorLayers, Units, learn_sensors, reach_hsi_px, resized
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem, StageResult
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.sense import supported
from hsi_fuse.solve import MapOptions, anchor, reconcile, solve_map
from hsi_fuse.stages.map import within
from hsi_fuse.subspace import fill_nearest, problem_subspace, upsample
from hsi_fuse.vca import vertices

LEAST_SUPPORT = 64
"""HSI pixels under the guide below which there is nothing to learn from."""
LEAST_CROP_HSI_PX = 4
"""Side of the smallest training crop, without the rim whose PSF reaches out of it."""
SENSOR_WINDOW_HSI_PX = 192
"""Side of the window in which the sensors are learned by themselves."""
SUPPORT = 0.1
"""Share of its peak below which a sensed response is taken for nothing."""
TILE_PX = 256
"""Side of the tiles in which the whole guide is unmixed."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses, each a mean over valid pixels (and bands, or materials).

    A sum of N values under the weight w is their mean under w N. The paper (equations 11 to 15) sums and does
    not print its weights; the public code has 10 for each misfit of an image and 0.01 for sum-to-one and
    sparsity. (It has 10000 for the sensors', a mean: as much as 13 on the sum of CAVE's 768 values.) Divided
    by what the guide's misfit gets, 10 m H W, the means have these weights: 1 for a guide's misfit,
    n / (m s^2) for an HSI's, 1 / s^2 for the sensors', 0.001 / m for sum-to-one and 0.001 K / m for sparsity.
    Preset `cucanet-paper` has their values on CAVE at x32. Deviation: there the HSI's abundances count as
    much as the guide's, not 1 / s^2 of it.

    Attributes
    ----------
    hsi_itself, guide_itself : float
        What the autoencoders make of their own image (equation 11).
    hsi, guide : float
        The fused cube, seen by either sensor (equation 14).
    sensors : float
        The guide seen by the HSI's sensor against the HSI seen by the guide's (equation 14).
    sum_to_one, sparsity : float
        Of the abundances (equations 12 and 13).
    """

    hsi_itself: float = 1.0
    guide_itself: float = 1.0
    hsi: float = 1.0
    guide: float = 1.0
    sensors: float = 1.0
    sum_to_one: float = 0.1
    sparsity: float = 0.001


@dataclass(frozen=True)
class Cucanet(MapOptions):
    """CUCaNet: Yao, Hong, Chanussot, Meng, Zhu and Xu, ECCV 2020; unsupervised, on this scene alone.

    Two autoencoders unmix HSI and guide; Z is what the HSI's decoder makes of the guide's abundances. PSF and
    SRF are learned with them, and cross-attention lets each encoder see what the other found
    (`CoupledAutoencoders`, `SensorLayers`). All losses are L1.

    Deviations, each with the paper's way behind a switch where it is a matter of taste (preset
    `cucanet-paper` throws them all): decoders start at the HSI's vertices, and the sensors at the problem's
    (`warm`); the PSF may be wider than an HSI pixel (`disjoint`); widths, kernels, number of endmembers
    and rate are smaller (fields); training takes crops (`crop_px`) and stops on held-out HSI pixels
    (`held_out`); the learned sensor is kept only if it explains the held-out pixels better than the
    problem's; and the data have the last word (`solve`): Z is the prior's mean in `solve_map`.

    Attributes
    ----------
    steps : int
        Most training steps.
    sensor_steps : int
        Steps in which the sensors are learned by themselves before, with `warm` and `consistency`.
    learning_rate : float
        Of the HSI's encoder and the decoders; the guide's encoder has half of it; the attention, gains and
        offsets a fifth.
    sensor_rate : float
        Of PSF and SRF. Adam moves a parameter by about its rate a step: from nothing both have to come some
        units far (the PSF's logarithms by 4 or more), which the paper's fifth of `learning_rate` allows in
        its 10000 steps (6 in all), and not in a few hundred (0.2).
    flat : float, optional
        Fraction of the steps at the full rate before it falls in a line; None: a rise, then a cosine.
    patience : int
        Checks (a fiftieth of the steps each) without a better held-out score after which training stops.
    endmembers : int
        K; with `warm` at most as many as HSI bands.
    widths : tuple of int
        Channels of the encoders' three blocks.
    kernels : tuple of int
        Sides of the guide encoder's convolutions.
    attention_cells : int
        Side of the grid to which the HSI is averaged for the spectral attention; 0: every HSI pixel.
    crop_px : int
        Side of the training crops in fine pixels, rounded up to whole HSI pixels, not below
        `LEAST_CROP_HSI_PX` of them; 0: the image.
    held_out : float
        Fraction of HSI pixels that decide when to stop; 0: the fit to all of them decides.
    clamp : bool
        Abundances clamped to [0, 1]; else softmax.
    consistency : bool
        Whether the sensors must agree with each other too, C Y = R X: the closed loop of the spatial-spectral
        consistency. Without it PSF and SRF are learned from the fused cube's misfits alone.
    learned_sensors : bool
        Off, and with it `consistency`: PSF and SRF stay where they start. The paper's module for
        spatial-spectral consistency is both; its ablation does not say what was left out.
    cross_attention : bool
    warm : bool
        Else Kaiming's initialisation, a flat PSF, and responses flat over the support of the problem's, which
        the paper takes as known.
    disjoint : bool
        The PSF is as large as the HSI pixel, so that HSI pixels share no ground.
    solve : bool
        Whether a MAP estimate around the network's follows.
    dimensions : int
        Most dimensions of the subspace that holds the result.
    weights : LossWeights
    """

    steps: int = 1000
    sensor_steps: int = 400
    learning_rate: float = 5e-3
    sensor_rate: float = 1e-3
    flat: float | None = None
    patience: int = 25
    endmembers: int = 30
    widths: tuple[int, int, int] = (64, 64, 64)
    kernels: tuple[int, int, int] = (1, 1, 1)
    attention_cells: int = 16
    crop_px: int = 64
    held_out: float = 0.1
    clamp: bool = True
    consistency: bool = True
    learned_sensors: bool = True
    cross_attention: bool = True
    warm: bool = True
    disjoint: bool = False
    solve: bool = True
    dimensions: int = 24
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if any(side % 2 == 0 or side < 1 for side in self.kernels):
            raise ValueError(f"kernels must have odd sides, got {self.kernels}")

    def __call__(self, problem: Problem, start: Estimate, on_step: OnStep) -> StageResult:
        """Train on `problem`; `start` is passed through where there is too little to learn from."""
        training = _Training.of(problem, self)
        if training is None:
            on_step("cucanet", self.steps, self.steps, 0.0)
            reason = "too few HSI pixels under the guide to learn from"
            return StageResult(start, {"kept": False, "reason": reason})
        trained = training.run(on_step)
        sensor, share, figures = training.sensor()
        if sensor is not None:
            # the guide's noise holds what the sensor model could not explain: it shrinks as that does
            problem = replace(problem, sensor=sensor, guide_noise=share * problem.guide_noise)
        spectra, abundances = training.unmixed()
        subspace = problem_subspace(problem, self.dimensions)
        low = subspace.project(fill_nearest(problem.hsi, problem.hsi_weight))  # (k, h, w)
        coefficients = within(subspace, Estimate(spectra, torch.zeros_like(subspace.mean), abundances))
        if self.solve:
            problem = reconcile(problem, subspace)
            coefficients, figures["cg_iterations"] = solve_map(
                problem, subspace, anchor(problem, low, coefficients), self
            )
        else:
            coefficients = keep_guided(problem, coefficients, upsample(low, problem.ratio))
        on_step("cucanet", self.steps, self.steps, trained.best_score)
        verdict = {
            "kept": True,
            "best_step": trained.best_step,
            "held_out_error": trained.best_score,
            "endmembers": spectra.shape[1],
            "dimensions": subspace.size,
            **figures,
        }
        return StageResult(
            Estimate(subspace.basis, subspace.mean, coefficients),
            verdict,
            trained.history,
            {"endmembers": spectra, "abundances": abundances},
            sensor,
        )


@dataclass(frozen=True)
class _Training:
    """One scene in the network's units, and the network.

    `learn` and `check` weigh HSI pixels (h, w); `weight` weighs the guide's pixels. `view` is the guide
    with the network's halo of mirrored ground.
    """

    options: Cucanet
    problem: Problem
    units: Units
    hsi: Tensor
    guide: Tensor
    weight: Tensor
    view: Tensor
    learn: Tensor
    check: Tensor
    crops: Crops
    network: CoupledAutoencoders
    layers: SensorLayers

    @classmethod
    def of(cls, problem: Problem, options: Cucanet) -> _Training | None:
        """None where there is too little to learn from."""
        ratio, given, weight = problem.ratio, problem.sensor, problem.guide_weight
        n, h, w = problem.hsi.shape
        psf = resized(given.psf, ratio if options.disjoint else max(given.psf.shape[0], ratio))
        usable = supported(weight, problem.hsi_weight, torch.ones_like(psf) / psf.numel(), ratio)
        if int(usable.sum()) < LEAST_SUPPORT:
            return None
        draw = torch.Generator().manual_seed(problem.seed)
        asked = (torch.rand(usable.shape, generator=draw) < options.held_out).to(usable.device)
        check = usable & asked if options.held_out else usable
        units = Units.of(given, problem.hsi[:, usable], problem.guide[:, weight > 0])
        hsi = fill_nearest(problem.hsi, problem.hsi_weight) / units.scale
        guide = units.guide(fill_nearest(problem.guide, weight))
        ring = reach_hsi_px(psf, ratio)
        least = LEAST_CROP_HSI_PX + 2 * ring
        side = max(-(-options.crop_px // ratio), least) if options.crop_px else max(h, w)
        crops = Crops(usable, side, ring, ratio)

        learn = (usable & ~asked).to(hsi)
        corners = hsi[:, learn > 0]
        corners = corners[:, vertices(corners, options.endmembers, problem.seed)]  # (n, K)
        if options.warm:
            layers = SensorLayers(given.srf, psf, ratio)
        else:
            support = support_of(given.srf)
            layers = SensorLayers(support, torch.ones_like(psf), ratio, support)
        layers = layers.requires_grad_(options.learned_sensors).to(problem.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(problem.seed)  # `torch.manual_seed` would seed GPUs too
            network = CoupledAutoencoders(
                n,
                len(guide),
                (h, w),
                ratio,
                corners.shape[1] if options.warm else options.endmembers,
                options.widths,
                options.kernels,
                options.clamp,
                options.cross_attention,
                options.attention_cells,
            ).to(problem.device)
        if options.warm:
            network.start_at(corners, layers.mix(corners).detach())
        view = F.pad(guide[None], [network.halo] * 4, mode="reflect")[0]
        return cls(
            *(options, problem, units, hsi, guide, weight, view, learn, check.to(hsi), crops),
            *(network, layers),
        )

    def run(self, on_step: OnStep) -> Trained:
        """Train the network and the sensors, which are left at their best."""
        network, layers, options = self.network, self.layers, self.options
        draw = torch.Generator().manual_seed(self.problem.seed)
        if options.warm and options.learned_sensors and options.consistency and options.sensor_steps:
            self._learn_sensors()
        guide = [*network.guide_blocks.parameters(), *network.guide_last.parameters()]
        slow = [layers.gain, layers.offset, *(network.cross.parameters() if network.cross else ())]
        named = {id(p) for p in (*guide, *slow)}
        rest = [p for p in network.parameters() if id(p) not in named]
        rate = options.learning_rate
        rates = (
            *((rest, rate), (guide, 0.5 * rate), (slow, 0.2 * rate)),
            ([layers.psf_logits, layers.responses], options.sensor_rate),
        )
        groups: list[dict[str, object]] = [{"params": part, "lr": rate} for part, rate in rates]

        def project() -> None:
            network.project()
            layers.project()

        schedule = Schedule(options.steps, max(options.steps // 50, 1), options.patience, flat=options.flat)
        both = torch.nn.ModuleList([network, layers])
        return train(
            both,
            groups,
            lambda: self.loss(self.crops.any(draw)),
            self.score,
            schedule,
            on_step,
            "cucanet",
            project,
            draws=(draw,),
        )

    def _learn_sensors(self) -> None:
        """The sensors by themselves, over the whole image where it is not too large."""
        usable = (self.learn > 0) | (self.check > 0)
        crops = Crops(usable, SENSOR_WINDOW_HSI_PX, self.crops.ring, self.crops.ratio)
        crop = crops.any(torch.Generator().manual_seed(self.problem.seed))
        learn_sensors(
            self.layers,
            self.hsi[:, *crop.coarse],
            self.guide[:, *crop.fine],
            self.learn[crop.coarse] * crop.inner,
            self.check[crop.coarse] * crop.inner,
            self.options.sensor_steps,
        )

    def loss(self, crop: Crop) -> Tensor:
        """The weighted losses over one crop."""
        options, network, layers, w = self.options, self.network, self.layers, self.options.weights
        coarse, hsi, guide = crop.coarse, self.hsi[:, *crop.coarse], self.guide[:, *crop.fine]
        features, spectral = network.attention(self.hsi, self.learn)
        fine, seen = network.unmix_guide(self._view(crop), spectral)  # (K, H, W)
        own = network.unmix_hsi(features[:, *coarse], seen)  # (K, h, w)
        learn, weight = self.learn[coarse], self.weight[crop.fine]
        inner = learn * crop.inner

        mixed = layers.mix(network.endmembers)  # (m, K)
        offset = layers.offset[:, None, None]
        total = (
            w.hsi_itself * mean_misfit(_mix(network.endmembers, own), hsi, learn)
            + w.guide_itself * mean_misfit(_mix(network.guide_endmembers, fine), guide, weight)
            + w.hsi * mean_misfit(_mix(network.endmembers, layers.down(fine)), hsi, inner)
            + w.guide * mean_misfit(_mix(mixed, fine) + offset, guide, weight)
            + w.sum_to_one * (sum_to_one(own, learn) + sum_to_one(fine, weight))
            + w.sparsity * (sparsity(own, learn) + sparsity(fine, weight))
        )
        if options.consistency:
            total = total + w.sensors * mean_misfit(layers.down(guide), layers.mix(hsi) + offset, inner)
        return total

    @torch.no_grad()
    def score(self) -> float:
        """Mean misfit of the fused cube to the HSI pixels that were held out."""
        _, spectral = self.network.attention(self.hsi, self.learn)
        total = count = 0.0
        for crop in self.crops.tiles():
            fine, _ = self.network.unmix_guide(self._view(crop), spectral)
            seen = _mix(self.network.endmembers, self.layers.down(fine))
            weight = self.check[crop.coarse] * crop.inner
            share = float(weight.sum())
            total += share * float(mean_misfit(seen, self.hsi[:, *crop.coarse], weight))
            count += share
        return total / max(count, 1e-9)

    @torch.no_grad()
    def sensor(self) -> tuple[Sensor | None, float, dict[str, object]]:
        """The learned sensor, its misfit to held-out pixels as a share of the given one's, and the figures.

        None where that share is not below 1.
        """
        learned = self.units.sensor(self.layers, self.problem.sensor)
        missed = {}
        for name, sensor in (("given", self.problem.sensor), ("learned", learned)):
            guide = fill_nearest(self.problem.guide, self.weight)
            seen = torch.tensordot(sensor.srf, self.problem.hsi, dims=1) + sensor.offset[:, None, None]
            scale = (self.units.gain * self.units.scale)[:, None, None]
            left = (blur_down(guide, sensor.psf, sensor.ratio) - seen) / scale
            missed[name] = float(mean_misfit(left, torch.zeros_like(left), self.check))
        better = missed["learned"] < missed["given"]
        figures: dict[str, object] = {
            "sensor_kept": better,
            "held_out_sensor_error": missed["learned"],
            "held_out_sensor_error_before": missed["given"],
        }
        if not better:
            return None, 1.0, figures
        figures["psf_fwhm_px"] = list(learned.psf_fwhm)
        found = {**learned.found, "psf": "free, learned by cucanet", **figures}
        share = missed["learned"] / missed["given"]
        return replace(learned, found=found), share, figures

    @torch.no_grad()
    def unmixed(self) -> tuple[Tensor, Tensor]:
        """Endmembers (n, K) in HSI units, and abundances (K, H, W) of the whole guide, in tiles."""
        _, spectral = self.network.attention(self.hsi, self.learn)
        height, width = self.weight.shape
        step, twice = TILE_PX, 2 * self.network.halo
        rows = [
            torch.cat(
                [
                    self.network.unmix_guide(
                        self.view[:, i : i + step + twice, j : j + step + twice], spectral
                    )[0]
                    for j in range(0, width, step)
                ],
                2,
            )
            for i in range(0, height, step)
        ]
        return self.network.endmembers.detach() * self.units.scale, torch.cat(rows, 1)

    def _view(self, crop: Crop) -> Tensor:
        """The crop of the guide with its halo."""
        rows, columns = (slice(s.start, s.stop + 2 * self.network.halo) for s in crop.fine)
        return self.view[:, rows, columns]


def support_of(srf: Tensor) -> Tensor:
    """1 where a response (m, n) is not small beside its row's peak, else 0."""
    return (srf > SUPPORT * srf.amax(1, keepdim=True)).to(srf)


def _mix(spectra: Tensor, abundances: Tensor) -> Tensor:
    """Spectra (b, K) mixed: (K, ...) -> (b, ...)."""
    return torch.tensordot(spectra, abundances, dims=1)

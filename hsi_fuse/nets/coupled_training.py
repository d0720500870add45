"""Stage `cucanet`'s training: one scene, the coupled autoencoders, and the sensors that they learn with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hsi_fuse.crops import Crop, Crops
from hsi_fuse.losses import mean_misfit, sparsity, sum_to_one
from hsi_fuse.nets.coupled_autoencoders import CoupledAutoencoders
from hsi_fuse.nets.sensor_layers import SensorLayers, Units, learn_sensors, reach_hsi_px, resized
from hsi_fuse.optimise import Schedule, Trained, train
from hsi_fuse.physics import blur_down
from hsi_fuse.problem import Estimate, OnStep, Problem
from hsi_fuse.sensor import Sensor
from hsi_fuse.sensors.sense import supported
from hsi_fuse.subspace import fill_nearest
from hsi_fuse.vca import vertices

if TYPE_CHECKING:
    from hsi_fuse.stages.cucanet import Cucanet

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
class CoupledTraining:
    """One scene in the network's units, and the network.

    `learn` and `check` weigh HSI pixels (h, w); `weight` weighs the guide's pixels. In `shown` what is held
    out is filled from beside it, as attention must not see it. `view` is the guide with the network's halo
    of mirrored ground.
    """

    options: Cucanet
    problem: Problem
    units: Units
    hsi: Tensor
    shown: Tensor
    guide: Tensor
    weight: Tensor
    view: Tensor
    learn: Tensor
    check: Tensor
    crops: Crops
    network: CoupledAutoencoders
    layers: SensorLayers

    @classmethod
    def of(cls, problem: Problem, options: Cucanet) -> CoupledTraining | None:
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
        shown = fill_nearest(problem.hsi, problem.hsi_weight * ~(usable & asked)) / units.scale
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
                options.attention_reach,
            ).to(problem.device)
        if options.warm:
            network.start_at(corners, layers.mix(corners).detach())
        view = F.pad(guide[None], [network.halo] * 4, mode="reflect")[0]
        return cls(
            *(options, problem, units, hsi, shown, guide, weight, view, learn, check.to(hsi), crops),
            *(network, layers),
        )

    def run(self, on_step: OnStep) -> Trained:
        """Train the network and the sensors, which are left at their best."""
        network, layers, options = self.network, self.layers, self.options
        draw = torch.Generator().manual_seed(self.problem.seed)
        if options.warm and options.learned_sensors and options.consistency and options.sensor_steps:
            self._learn_sensors()
        rate = options.learning_rate
        # attended features are much like the plain ones beside them: what is made of both moves twice as far
        last = 0.5 * rate if network.cross else rate
        attention = network.cross.parameters() if network.cross else ()
        rates = (
            ([*network.hsi_blocks.parameters(), network.endmembers, network.guide_endmembers], rate),
            (network.hsi_last.parameters(), last),
            (network.guide_blocks.parameters(), 0.5 * rate),
            (network.guide_last.parameters(), 0.5 * last),
            ([layers.gain, layers.offset, *attention], 0.2 * rate),
            ([layers.psf_logits, layers.responses], options.sensor_rate),
        )
        groups: list[dict[str, object]] = [{"params": list(part), "lr": rate} for part, rate in rates]

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
        fine, seen = self._unmix_guide(self.shown, coarse, self._whole(self.shown))  # (K, H, W)
        own = network.unmix_hsi(hsi, seen)  # (K, h, w)
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
        total = count = 0.0
        whole = self._whole(self.shown)
        for crop in self.crops.tiles():
            fine, _ = self._unmix_guide(self.shown, crop.coarse, whole)
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
    def unmixed(self) -> Estimate:
        """The network's own cube: endmembers (n, K) in HSI units, abundances (K, H, W) of all the guide."""
        (height, width), step = self.hsi.shape[1:], -(-TILE_PX // self.problem.ratio)
        spans = [[slice(i, min(i + step, size)) for i in range(0, size, step)] for size in (height, width)]
        whole = self._whole(self.hsi)
        rows = [
            torch.cat([self._unmix_guide(self.hsi, (across, along), whole)[0] for along in spans[1]], 2)
            for across in spans[0]
        ]
        spectra = self.network.endmembers.detach() * self.units.scale
        return Estimate(spectra, torch.zeros_like(spectra[:, 0]), torch.cat(rows, 1))

    def _whole(self, told: Tensor) -> Tensor | None:
        """The spectral attention where there is one for all of the image; else each window has its own."""
        return None if self.network.rim else self.network.attention(told)

    def _unmix_guide(
        self, told: Tensor, coarse: tuple[slice, slice], spectral: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Abundances and features of the guide over a window of HSI pixels.

        The attention of the window sees the HSI `told` (n, h, w); beyond its edge the last pixel goes on.
        """
        network, ratio = self.network, self.problem.ratio
        if rim := network.rim:
            rows, columns = (
                torch.arange(span.start - rim, span.stop + rim, device=told.device).clamp(0, size - 1)
                for span, size in zip(coarse, told.shape[1:], strict=True)
            )
            spectral = network.attention(told[:, rows[:, None], columns])
        view = (slice(s.start * ratio, s.stop * ratio + 2 * network.halo) for s in coarse)
        return network.unmix_guide(self.view[:, *view], spectral)


def support_of(srf: Tensor) -> Tensor:
    """1 where a response (m, n) is not small beside its row's peak, else 0."""
    return (srf > SUPPORT * srf.amax(1, keepdim=True)).to(srf)


def _mix(spectra: Tensor, abundances: Tensor) -> Tensor:
    """Spectra (b, K) mixed: (K, ...) -> (b, ...)."""
    return torch.tensordot(spectra, abundances, dims=1)

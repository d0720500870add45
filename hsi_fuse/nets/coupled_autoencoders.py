"""The networks of stage `cucanet`: two autoencoders that unmix, and the attention between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.sensor_layers import softmax_map
from hsi_fuse.physics import blur_down

SLOPE = 0.2
"""Of LeakyReLU below zero."""
LAST_LAYER = 0.1
"""By how much smaller than Kaiming's the last convolutions start where the endmembers are given."""
SPATIAL_ATTENTION = 5
"""Side p of the convolution that makes the spatial attention; the paper leaves it open."""


class CrossAttention(nn.Module):
    """What each branch of CUCaNet tells the other (section 3.3, equation 7).

    The HSI's features, under a depth-wise convolution, give factors for the channels: their softmax
    multiplies the guide's features. The guide's features, under one convolution, give one map, whose
    softmax, brought down by a PSF of its own, multiplies the HSI's.

    The paper's depth-wise convolution is as large as the image (`reach` 0). A factor for each channel of one
    image is a diagonal matrix, which the guide's last convolution can hold: such attention changes how
    abundances are learned, not which there can be. The HSI's encoder does get what it has not itself, but
    the fused cube is made of the guide's abundances: the spatial attention reaches it through the endmembers
    alone.

    Deviations: with a `reach` the convolution is so many HSI pixels wide, so that every place has its own
    factors, and what one colour stands for may differ from place to place; between HSI pixels they are
    interpolated. And attention is scaled to a mean of 1, so that its size does not hang on the number of
    channels and pixels (as the paper has it, 1/512 and 1/262144, the products vanish beside the originals)
    and crops may be taken.

    Parameters
    ----------
    channels : int
    size : (int, int)
        HSI pixels h, w.
    ratio : int
    reach : int
        Odd; 0: the whole image.
    """

    def __init__(self, channels: int, size: tuple[int, int], ratio: int, reach: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.rim = reach // 2 + 1 if reach else 0
        self.spectral_filter = nn.Conv2d(
            channels, channels, (reach, reach) if reach else size, groups=channels
        )
        half = SPATIAL_ATTENTION // 2
        self.spatial_filter = nn.Conv2d(
            channels, 1, SPATIAL_ATTENTION, padding=half, padding_mode="replicate"
        )
        self.psf_logits = nn.Parameter(torch.zeros(ratio, ratio))

    def spectral(self, features: Tensor) -> Tensor:
        """Factors for the guide's channels, (c, H, W), from the HSI's features (c, h + 2 rim, w + 2 rim).

        Without a reach: (c, 1, 1), from those of the whole image, (c, h, w).
        """
        factors = torch.softmax(self.spectral_filter(features[None]), 1) * len(features)
        if not self.rim:
            return factors[0]
        fine = F.interpolate(factors, scale_factor=float(self.ratio), mode="bilinear")[0]
        inner = slice(self.ratio, -self.ratio)  # an HSI pixel on, between whose neighbours to interpolate
        return fine[:, inner, inner]

    def spatial(self, features: Tensor) -> Tensor:
        """A factor for each HSI pixel, (1, h, w), from the guide's features (c, H, W) above them."""
        fine = softmax_map(self.spatial_filter(features[None])[0, 0]) * features[0].numel()
        return blur_down(fine[None], softmax_map(self.psf_logits), self.ratio)


class Last(nn.Module):
    """The last 1 x 1 convolution of an encoder: of features, and of attended ones beside them.

    One convolution of both is the sum of two. That of the attended features begins at zero, so that a network
    with attention begins as the same network without: what attention gains is then no matter of the draw.
    Deviation: the paper has Kaiming's weights there too.

    Parameters
    ----------
    channels, count : int
        Features, and maps K.
    attended : bool
    """

    def __init__(self, channels: int, count: int, attended: bool) -> None:
        super().__init__()
        self.plain = nn.Conv2d(channels, count, 1)
        self.attended = nn.Parameter(torch.zeros(count, channels)) if attended else None

    def forward(self, features: Tensor, attention: Tensor | None) -> Tensor:
        """Maps (K, H, W) of features (c, H, W), and an attention that multiplies them, or none."""
        maps: Tensor = self.plain(features[None])[0]
        if self.attended is None or attention is None:
            return maps
        return maps + torch.tensordot(self.attended, features * attention, dims=1)


class CoupledAutoencoders(nn.Module):
    """Encoders and decoders of CUCaNet (section 3.3, figures 1 and 2), by image not batch.

    An encoder is three blocks of convolution and LeakyReLU(0.2), then one 1 x 1 convolution to K abundance
    maps, clamped to [0, 1]. Decoders are matrices with entries in [0, 1]: the endmembers as HSI and as guide
    see them.

    `CrossAttention` goes before the last convolution, beside the original features (`Last`).

    Deviations: what `CrossAttention` and `Last` name; convolutions see what the caller gives them beyond the
    scene's edge, not zeros: `halo` guide pixels, and `rim` HSI pixels for the attention.

    Parameters
    ----------
    bands, guide_bands : int
    size : (int, int)
        HSI pixels h, w.
    ratio : int
    count : int
        Endmembers K.
    widths, kernels : tuple of int
        Channels of the three blocks, and the sides of the guide encoder's convolutions (odd).
    clamp : bool
        Softmax in place of the clamp where False.
    cross_attention : bool
    reach : int
        Of the spectral attention, in HSI pixels; 0: the whole image.
    """

    def __init__(
        self,
        bands: int,
        guide_bands: int,
        size: tuple[int, int],
        ratio: int,
        count: int,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        clamp: bool,
        cross_attention: bool,
        reach: int,
    ) -> None:
        super().__init__()
        last = widths[-1]
        self.clamp = clamp
        self.halo = sum(side // 2 for side in kernels)
        self.hsi_blocks = _blocks((bands, *widths), (1,) * len(widths))
        self.guide_blocks = _blocks((guide_bands, *widths), kernels)
        self.hsi_last, self.guide_last = (Last(last, count, cross_attention) for _ in range(2))
        self.endmembers = nn.Parameter(torch.empty(bands, count))
        self.guide_endmembers = nn.Parameter(torch.empty(guide_bands, count))
        for weight in (self.endmembers, self.guide_endmembers):
            nn.init.kaiming_uniform_(weight, a=SLOPE)
        _kaiming(self)
        self.cross: CrossAttention | None = None
        if cross_attention:  # after all else, which draws the same numbers with it and without
            self.cross = CrossAttention(last, size, ratio, reach)
            _kaiming(self.cross)
        self.project()

    @torch.no_grad()
    def start_at(self, endmembers: Tensor, seen: Tensor) -> None:
        """Begin with these endmembers, (n, K) and as the guide sees them (m, K), mixed about evenly.

        The last convolutions begin small around 1 / K: outside [0, 1] the clamp passes no gradient.
        """
        count = endmembers.shape[1]
        self.endmembers.copy_(endmembers)
        self.guide_endmembers.copy_(seen)
        for last in (self.hsi_last, self.guide_last):
            last.plain.weight.mul_(LAST_LAYER)
            assert last.plain.bias is not None
            last.plain.bias.fill_(1 / count)
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Endmembers back into [0, 1]."""
        self.endmembers.clamp_(0, 1)
        self.guide_endmembers.clamp_(0, 1)

    @property
    def rim(self) -> int:
        """HSI pixels beyond its own that a crop needs for its attention; 0: all of the image."""
        return self.cross.rim if self.cross else 0

    def attention(self, hsi: Tensor) -> Tensor | None:
        """The spectral attention to a crop of the guide, from its HSI (n, h + 2 rim, w + 2 rim)."""
        return self.cross.spectral(self.hsi_blocks(hsi[None])[0]) if self.cross else None

    def unmix_guide(self, guide: Tensor, spectral: Tensor | None) -> tuple[Tensor, Tensor]:
        """Abundances (K, H, W) and features (c, H, W) of a guide (m, H + 2 halo, W + 2 halo)."""
        features: Tensor = self.guide_blocks(guide[None])[0]
        return self._activate(self.guide_last(features, spectral)), features

    def unmix_hsi(self, hsi: Tensor, guide_features: Tensor) -> Tensor:
        """Abundances (K, h, w) of an HSI (n, h, w), with the guide's features over the same ground."""
        features: Tensor = self.hsi_blocks(hsi[None])[0]
        spatial = self.cross.spatial(guide_features) if self.cross else None
        return self._activate(self.hsi_last(features, spatial))

    def _activate(self, maps: Tensor) -> Tensor:
        return maps.clamp(0, 1) if self.clamp else torch.softmax(maps, 0)


def _kaiming(module: nn.Module) -> None:
    """Kaiming's weights and no biases for every convolution in a module."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def _blocks(widths: tuple[int, ...], kernels: tuple[int, ...]) -> nn.Sequential:
    """Convolution + LeakyReLU, without padding."""
    layers: list[nn.Module] = []
    for before, after, side in zip(widths[:-1], widths[1:], kernels, strict=True):
        layers += [nn.Conv2d(before, after, side), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)

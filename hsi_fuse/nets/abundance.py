"""UAFL's network (CVPR 2026): abundances and an unregistered reference -> residual abundances and a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.attention import Scaca
from hsi_fuse.nets.cfda import Cfda
from hsi_fuse.nets.deform import PlainDeformable, zero_conv
from hsi_fuse.nets.flow import resize_flow
from hsi_fuse.nets.scmf import Scmf

Aggregation = Literal["cfda", "plain", "still"]


@dataclass(frozen=True)
class Parts:
    """What the network is made of.

    Attributes
    ----------
    width : int
        Channels of every feature map.
    levels : int
        Scales, each half the one above.
    aggregation : Aggregation
        "cfda", "plain" (deformable convolution alone) or "still" (the reference as it lies).
    scaca, scmf : bool
        Off: a convolution of both features in its place.
    groups, heads : int
        Of the deformable convolutions and of the attention; they divide `width`.
    reach : float
        Pixels of a scale that a tap's offset may lie off the flow.
    """

    width: int
    levels: int
    aggregation: Aggregation
    scaca: bool
    scmf: bool
    groups: int
    heads: int
    reach: float


class Both(nn.Module):
    """Two features -> one by two convolutions, the first one's added: in the place of a part that is off."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        mixed: Tensor = self.mix(torch.cat([one, other], 1))
        return one + mixed


class Encoder(nn.Module):
    """Features of an image at every scale, each half the one above; all `width` channels wide."""

    def __init__(self, channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 2, 2) for _ in range(levels - 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1)) for _ in range(levels)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(b, c, H, W) -> features, the finest first."""
        features = self.enter(image)
        found = []
        for level, block in enumerate(self.blocks):
            features = features + block(features)
            found.append(features)
            if level < len(self.down):
                features = self.down[level](features)
        return found


class AbundanceNetwork(nn.Module):
    """Encoders of abundances and of the reference; a decoder that brings the reference in at every scale.

    From the coarsest scale up: the reference is aggregated where the abundances' features are (the flow of
    the scale below is the next one's prior), refines them, and is handed on to be fused with the encoder's
    features. The head starts at zero, so that the network at first changes nothing.

    Parameters
    ----------
    abundances, reference : int
        Channels of the two inputs.
    out : int
        Channels of the output.
    parts : Parts
    """

    def __init__(self, abundances: int, reference: int, out: int, parts: Parts) -> None:
        super().__init__()
        width = parts.width
        self.multiple = 2 ** (parts.levels - 1)
        self.abundances, self.reference = (
            Encoder(channels, width, parts.levels) for channels in (abundances, reference)
        )
        levels = range(parts.levels)
        self.aggregate = nn.ModuleList()
        if parts.aggregation == "cfda":
            self.aggregate.extend(Cfda(width, parts.groups, parts.reach) for _ in levels)
        elif parts.aggregation == "plain":
            self.aggregate.extend(PlainDeformable(width, parts.groups) for _ in levels)
        self.refine = nn.ModuleList(Scaca(width, parts.heads) if parts.scaca else Both(width) for _ in levels)
        self.fuse = nn.ModuleList(Scmf(width) if parts.scmf else Both(width) for _ in levels[1:])
        self.head = zero_conv(width, out)

    def forward(self, abundances: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Residual and flow.

        Parameters
        ----------
        abundances : Tensor (b, c, H, W)
        reference : Tensor (b, m, H, W)
            Any size; it is padded inside to a multiple of the coarsest scale.

        Returns
        -------
        residual : Tensor (b, out, H, W)
        flow : Tensor (b, 2, H, W)
            Where in the reference each pixel's content was found; zeros where nothing is aggregated.
        """
        height, width = abundances.shape[2:]
        rim = [0, -width % self.multiple, 0, -height % self.multiple]
        encoded = self.abundances(F.pad(abundances, rim, mode="replicate"))
        references = self.reference(F.pad(reference, rim, mode="replicate"))
        features, flow = encoded[-1], None
        for level in reversed(range(len(encoded))):
            if level < len(encoded) - 1:
                size = encoded[level].shape[2:]
                above = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
                features = self.fuse[level](encoded[level], above)
                flow = None if flow is None else resize_flow(flow, *size)
            seen = references[level]
            if len(self.aggregate):
                seen, flow = self.aggregate[level](features, seen, flow)
            features = self.refine[level](features, seen)
        residual = self.head(features)[:, :, :height, :width]
        if flow is None:
            flow = torch.zeros_like(residual[:, :1]).repeat(1, 2, 1, 1)
        return residual, flow[:, :, :height, :width]


class Mixed(nn.Module):
    """A network in mixed precision where it runs on a GPU; single precision comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, abundances: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gives."""
        device = abundances.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            residual, flow = self.network(abundances, reference)
        return residual.float(), flow.float()

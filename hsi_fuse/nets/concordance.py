"""SSC-HSR's network (2025): abundances and an unregistered reference -> residual abundances and a flow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hsi_fuse.nets.abundance import Both, Encoder
from hsi_fuse.nets.deform import zero_conv
from hsi_fuse.nets.flow import resize_flow
from hsi_fuse.nets.idfa import Idfa
from hsi_fuse.nets.optical import OpticalFlow
from hsi_fuse.nets.spectral import SpectralFusion


class ConcordanceNetwork(nn.Module):
    """Optical flow over all scales, then a decoder that aggregates the reference from the coarsest scale up.

    At every scale the fusion's result so far guides the offsets by which the reference is aggregated around
    the flow. What they add to the flow is handed on to the next scale. Head, flow and offsets start at
    zero, so that the network at first changes nothing.

    Parameters
    ----------
    abundances, reference : int
        Channels of the two inputs, laid out as by `sight.Channels`: of the reference m are the guide, m the
        guide through the PSF and one its weight; among the abundances, m of the guide wanted and m of
        contrast come last.
    out : int
        Channels of the output.
    width, levels : int
        Channels of every feature map; scales, each half the one above.
    groups, heads : int
        Of the deformable convolutions and of the attention; they divide `width`.
    reach : float
        Pixels of a scale that an iteration may move a tap.
    iterations : int
        Of the aggregation.
    spectral : bool
        Off: two convolutions in the place of spectral-wise attention.
    """

    def __init__(
        self,
        abundances: int,
        reference: int,
        out: int,
        *,
        width: int,
        levels: int,
        groups: int,
        heads: int,
        reach: float,
        iterations: int,
        spectral: bool,
    ) -> None:
        super().__init__()
        self.multiple, self.guide_bands = 2 ** (levels - 1), (reference - 1) // 2
        self.abundances, self.reference = (Encoder(c, width, levels) for c in (abundances, reference))
        self.align = OpticalFlow(width, levels)
        self.aggregate = nn.ModuleList(Idfa(width, groups, reach, iterations) for _ in range(levels))
        self.refine = nn.ModuleList(
            SpectralFusion(width, heads) if spectral else Both(width) for _ in range(levels)
        )
        self.fuse = nn.ModuleList(Both(width) for _ in range(levels - 1))
        self.head = zero_conv(width, out)

    def forward(self, abundances: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Residual and flow.

        Parameters
        ----------
        abundances : Tensor (b, c, H, W)
        reference : Tensor (b, 2 m + 1, H, W)
            Any size; it is padded inside to a multiple of the coarsest scale.

        Returns
        -------
        residual : Tensor (b, out, H, W)
        flow : Tensor (b, 2, H, W)
            Where in the reference each pixel's content was found.
        """
        height, width = abundances.shape[2:]
        rim = [0, -width % self.multiple, 0, -height % self.multiple]
        abundances, reference = (F.pad(image, rim, mode="replicate") for image in (abundances, reference))
        encoded, references = self.abundances(abundances), self.reference(reference)
        m = self.guide_bands
        wanted, seen = abundances[:, -2 * m : -m], reference[:, m : 2 * m]
        flows = self.align(encoded, references, wanted, seen)
        features, added = encoded[-1], flows[-1] * 0
        for level in reversed(range(len(encoded))):
            if level < len(encoded) - 1:
                size = encoded[level].shape[2:]
                above = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
                features, added = self.fuse[level](encoded[level], above), resize_flow(added, *size)
            found, flow = self.aggregate[level](features, references[level], flows[level] + added)
            added = flow - flows[level]
            features = self.refine[level](features, found)
        return self.head(features)[:, :, :height, :width], flow[:, :, :height, :width]

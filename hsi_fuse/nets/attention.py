"""Spatial-channel abundance cross-attention (SCACA) of UAFL (CVPR 2026), and the parts it is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 8


class Norm(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, H, W) -> (b, c, H, W)."""
        normed: Tensor = self.norm(features.movedim(1, -1))
        return normed.movedim(-1, 1)


class SelfModulation(nn.Module):
    """A reference that raises itself where a depth-wise 5 x 5 convolution says so: r + r sigmoid(conv r)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, reference: Tensor) -> Tensor:
        """(b, c, H, W) -> (b, c, H, W)."""
        return reference + reference * torch.sigmoid(self.gate(reference))


class WindowAttention(nn.Module):
    """Attention within windows of 8 x 8 pixels; values are multiplied by a reference's features.

    Windows are laid from `shift` pixels outside the upper left corner. What they hold beyond the image takes
    no part, so windows at the border attend to fewer pixels and never to the opposite border.

    Parameters
    ----------
    channels, heads : int
    shift : int
        0 to 7 pixels.
    """

    def __init__(self, channels: int, heads: int, shift: int = 0) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * WINDOW - 1) ** 2))
        places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))  # (64, 2)
        apart = places[:, None] - places[None] + WINDOW - 1
        self.register_buffer("index", apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1], persistent=False)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        batch, channels, height, width = features.shape
        q, k, v = self.to_qkv(features).chunk(3, 1)
        inside = features.new_ones(1, 1, height, width)
        q, k, v, inside = (self._windows(part) for part in (q, k, v * reference, inside))

        def by_head(part: Tensor) -> Tensor:  # (b windows, 64, c) -> (b windows, heads, 64, c / heads)
            return part.reshape(*part.shape[:2], self.heads, -1).transpose(1, 2)

        bias = self.bias[:, self.get_buffer("index")]  # (heads, 64, 64)
        hidden = torch.where(inside[:, None, None, :, 0] > 0, 0.0, float("-inf")).repeat(batch, 1, 1, 1)
        # torch's fused attention takes 2.6 times as long on a CPU: windows and heads are small
        queries = by_head(q) * (self.heads / channels) ** 0.5
        weights = (queries @ by_head(k).transpose(2, 3) + bias + hidden).softmax(3)
        mixed = (weights @ by_head(v)).transpose(1, 2).flatten(2)  # (b windows, 64, c)
        down, across = -(-(height + self.shift) // WINDOW), -(-(width + self.shift) // WINDOW)
        image = mixed.reshape(batch, down, across, WINDOW, WINDOW, channels)
        image = image.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, down * WINDOW, across * WINDOW)
        kept: Tensor = self.out(image[:, :, self.shift :, self.shift :][:, :, :height, :width])
        return kept

    def _windows(self, image: Tensor) -> Tensor:
        """(b, c, H, W) -> (b windows, 64, c), zeros beyond the image."""
        height, width = image.shape[2:]
        down, across = (-(size + self.shift) % WINDOW for size in (height, width))
        padded = F.pad(image, [self.shift, across, self.shift, down])
        rows, columns = (size // WINDOW for size in padded.shape[2:])
        parts = padded.reshape(*image.shape[:2], rows, WINDOW, columns, WINDOW)
        return parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, WINDOW**2, image.shape[1])


class ChannelAttention(nn.Module):
    """Attention between channels over the whole image; values are multiplied by a reference's features.

    Queries and keys have unit length over the pixels, so that the image's size does not matter.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        q, k, v = self.to_qkv(features).chunk(3, 1)
        size = len(features), self.heads, features.shape[1] // self.heads, -1
        q, k, v = (part.reshape(size) for part in (q, k, v * reference))
        weights = F.normalize(q, dim=3) @ F.normalize(k, dim=3).transpose(2, 3) * self.temperature
        mixed: Tensor = self.out((weights.softmax(3) @ v).reshape(features.shape))
        return mixed


class FeedForward(nn.Sequential):
    """1 x 1 convolution to twice the channels, depth-wise 3 x 3, and back."""

    def __init__(self, channels: int) -> None:
        wide = 2 * channels
        super().__init__(
            Norm(channels),
            nn.Conv2d(channels, wide, 1),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide),
            nn.GELU(),
            nn.Conv2d(wide, channels, 1),
        )


class Scaca(nn.Module):
    """Features refined by a reference: window attention plain and shifted, then channel attention.

    Each has a residual and a depth-wise feed-forward after it. The values of all three are multiplied by the
    self-modulated reference.

    Parameters
    ----------
    channels, heads : int
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.modulate = SelfModulation(channels)
        self.attend = nn.ModuleList(
            [
                WindowAttention(channels, heads),
                WindowAttention(channels, heads, WINDOW // 2),
                ChannelAttention(channels, heads),
            ]
        )
        self.norms = nn.ModuleList(Norm(channels) for _ in self.attend)
        self.forwards = nn.ModuleList(FeedForward(channels) for _ in self.attend)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """(b, c, H, W), (b, c, H, W) -> (b, c, H, W)."""
        reference = self.modulate(reference)
        for norm, attend, forward in zip(self.norms, self.attend, self.forwards, strict=True):
            features = features + attend(norm(features), reference)
            features = features + forward(features)
        return features

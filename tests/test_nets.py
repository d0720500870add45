"""The network parts against what they must equal."""

import pytest
import torch
import torch.nn.functional as F

from hsi_fuse.nets.attention import ChannelAttention, Scaca, WindowAttention
from hsi_fuse.nets.cfda import Cfda, fractional_encoding
from hsi_fuse.nets.deform import PlainDeformable, deform_conv
from hsi_fuse.nets.flow import resize_flow, sample, warp
from hsi_fuse.nets.scmf import Scmf


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def offsets_like(image: torch.Tensor, groups: int, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, height, width = image.shape
    offsets = size * torch.randn(batch, groups, 9, 2, height, width, dtype=image.dtype)
    return offsets, torch.rand(batch, groups, 9, height, width, dtype=image.dtype)


# --- deformable convolution --------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_without_offsets_it_is_a_convolution(groups):
    image, weight, bias = torch.randn(2, 4, 7, 9), torch.randn(5, 4, 3, 3), torch.randn(5)
    offsets, mask = offsets_like(image, groups, 0.0)
    found = deform_conv(image, offsets, torch.ones_like(mask), weight, bias)
    assert torch.allclose(found, F.conv2d(image, weight, bias, padding=1), atol=1e-5)


def test_it_is_the_sum_that_a_loop_makes():
    image, weight = torch.randn(1, 4, 5, 6, dtype=torch.float64), torch.randn(3, 4, 3, 3, dtype=torch.float64)
    offsets, mask = offsets_like(image, 2, 1.5)

    def value(channel: int, row: float, column: float) -> float:
        """Bilinear, nothing beyond the image."""
        total, i0, j0 = 0.0, int(row // 1), int(column // 1)
        for i in (i0, i0 + 1):
            for j in (j0, j0 + 1):
                if 0 <= i < 5 and 0 <= j < 6:
                    total += (1 - abs(row - i)) * (1 - abs(column - j)) * float(image[0, channel, i, j])
        return total

    wanted = torch.zeros(3, 5, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(6):
            for tap in range(9):
                for channel in range(4):
                    group = channel // 2
                    x, y = offsets[0, group, tap, :, i, j].tolist()
                    seen = value(channel, i + tap // 3 - 1 + y, j + tap % 3 - 1 + x)
                    seen *= float(mask[0, group, tap, i, j])
                    wanted[:, i, j] += weight[:, channel, tap // 3, tap % 3] * seen
    assert torch.allclose(deform_conv(image, offsets, mask, weight)[0], wanted)


def test_its_gradients_are_right():
    image = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    offsets, mask = offsets_like(image, 2, 0.3)
    offsets = offsets.clamp(-0.9, 0.9)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (image, offsets, mask, weight)]
    assert torch.autograd.gradcheck(deform_conv, inputs)


def test_groups_that_do_not_fit_are_refused():
    image = torch.randn(1, 3, 4, 4)
    offsets, mask = offsets_like(image, 2, 0.0)
    with pytest.raises(ValueError, match="3 channels do not fall into 2 groups"):
        deform_conv(image, offsets, mask, torch.randn(3, 3, 3, 3))


# --- flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_whole_pixel_flow_fetches_that_pixel(mode):
    image = torch.randn(2, 3, 8, 10)
    flow = torch.tensor([2.0, -1.0])[None, :, None, None].expand(2, 2, 8, 10)  # 2 columns right, 1 row up
    assert torch.allclose(warp(image, flow, mode)[:, :, 1:, :-2], image[:, :, :-1, 2:], atol=1e-5)


def test_the_warp_has_right_gradients():
    image = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    flow = (0.4 * torch.rand(1, 2, 4, 5, dtype=torch.float64) + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(warp, (image, flow))


def test_beyond_the_image_is_its_rim_or_nothing():
    image, far = torch.ones(1, 1, 3, 3), torch.full((1, 2, 1, 1), 50.0)
    assert float(sample(image, far)) == 1
    assert float(sample(image, far, padding="zeros")) == 0


def test_a_flow_keeps_its_direction_when_resized():
    flow = torch.tensor([1.0, -2.0])[None, :, None, None].expand(1, 2, 6, 5)
    large = resize_flow(flow, 12, 15)
    assert torch.allclose(large[0, :, 3, 3], torch.tensor([3.0, -4.0]))


def test_the_encoding_knows_the_fraction_only():
    flow = torch.randn(1, 2, 3, 4)
    assert fractional_encoding(flow).shape == (1, 32, 3, 4)
    assert torch.allclose(fractional_encoding(flow), fractional_encoding(flow + 3), atol=1e-3)


@pytest.mark.parametrize("kind", [Cfda, PlainDeformable])
def test_aggregation_starts_without_a_flow_and_learns_one(kind):
    """What is displaced by two pixels is found again, by features of the place where it belongs."""
    place = F.avg_pool2d(torch.randn(1, 4, 40, 40), 5, stride=1, padding=2) * 5
    moved = torch.roll(place, (0, 2), (2, 3))
    net = kind(4, 2)
    with torch.no_grad():
        _, flow = net(place, moved, None)
    assert float(flow.abs().max()) == 0
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))

    def error(aggregated: torch.Tensor) -> torch.Tensor:
        return ((aggregated - place) ** 2)[inner].mean()

    first = float(error(net(place, moved, None)[0].detach()))
    for _ in range(150):
        loss = error(net(place, moved, None)[0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.2 * first


# --- attention ---------------------------------------------------------------------------------------------


def by_loop(attention: WindowAttention, features: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Every pixel attends to those of its window, one by one."""
    q, k, v = attention.to_qkv(features).chunk(3, 1)
    v = v * reference
    _, channels, height, width = features.shape
    size, out = channels // attention.heads, torch.zeros_like(features)

    def window(i: int, j: int) -> tuple[int, int]:
        return (i + attention.shift) // 8, (j + attention.shift) // 8

    pixels = [(i, j) for i in range(height) for j in range(width)]
    for i, j in pixels:
        others = [p for p in pixels if window(*p) == window(i, j)]
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            logits = torch.stack(
                [
                    (q[0, part, i, j] @ k[0, part, a, b]) / size**0.5
                    + attention.bias[head, (i - a + 7) * 15 + j - b + 7]
                    for a, b in others
                ]
            )
            values = torch.stack([v[0, part, a, b] for a, b in others])
            out[0, part, i, j] = logits.softmax(0) @ values
    return attention.out(out)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("size", [(8, 16), (11, 5), (3, 4)])
def test_window_attention_is_what_a_loop_over_pixels_makes(shift, size):
    attention = WindowAttention(4, 2, shift)
    torch.nn.init.normal_(attention.bias)
    features, reference = torch.randn(1, 4, *size), torch.randn(1, 4, *size)
    with torch.no_grad():
        assert torch.allclose(
            attention(features, reference), by_loop(attention, features, reference), atol=1e-5
        )


def test_a_batch_is_its_images():
    net, features, reference = Scaca(4, 2), torch.randn(3, 4, 9, 12), torch.randn(3, 4, 9, 12)
    alone = torch.cat([net(f[None], r[None]) for f, r in zip(features, reference, strict=True)])
    assert torch.allclose(net(features, reference), alone, atol=1e-5)


def test_channel_attention_does_not_depend_on_the_pixels_order():
    attention, order = ChannelAttention(4, 2), torch.randperm(30)
    features, reference = torch.randn(1, 4, 5, 6), torch.randn(1, 4, 5, 6)

    def shuffled(image: torch.Tensor) -> torch.Tensor:
        return image.flatten(2)[:, :, order].reshape(image.shape)

    found = attention(shuffled(features), shuffled(reference))
    assert torch.allclose(found, shuffled(attention(features, reference)), atol=1e-5)


def test_a_silent_reference_adds_no_values():
    attention, features = WindowAttention(4, 2), torch.randn(1, 4, 8, 8)
    silent = attention(features, torch.zeros_like(features))
    assert torch.allclose(silent, attention.out.bias[None, :, None, None].expand_as(silent))


def test_gates_open_and_close_the_fusion():
    net, encoded, decoded = Scmf(4), torch.randn(1, 4, 6, 7), torch.randn(1, 4, 6, 7)
    assert not torch.allclose(net(encoded, decoded), decoded)
    with torch.no_grad():
        net.place[0].bias.fill_(-100.0)
        net.channel[1].bias.fill_(-100.0)
        net.place[0].weight.zero_()
        net.channel[1].weight.zero_()
    assert torch.allclose(net(encoded, decoded), decoded)

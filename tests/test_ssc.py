"""Stage `ssc` where the guide does not fit and where it fits, and the network parts that are its own."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from displaced import TINY, displaced, fitting, loses_nothing, quality, repeatable, started
from synthetic import problem_of

from hsi_fuse.nets.concordance import ConcordanceNetwork
from hsi_fuse.nets.flow import warp
from hsi_fuse.nets.idfa import Idfa
from hsi_fuse.nets.optical import OpticalFlow, cost_volume
from hsi_fuse.nets.repair import Repair, stretch
from hsi_fuse.nets.spectral import SpectralFusion
from hsi_fuse.problem import silent
from hsi_fuse.refinement.gate import Comparison
from hsi_fuse.refinement.lesson import LEAST_STEP
from hsi_fuse.refinement.repairing import inputs
from hsi_fuse.refinement.sight import Channels, Sight
from hsi_fuse.stages.map import within
from hsi_fuse.stages.ssc import Ssc
from hsi_fuse.subspace import interpolate, problem_subspace

SMALL = {"steps": 36, "width": 8, "levels": 2, "crop_px": 48}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def pair():
    return fitting()


def test_a_displaced_guide_is_found_and_the_gain_is_real(pair):
    problem = displaced(problem_of(pair), 2.0)
    start = started(problem)
    result = Ssc(**SMALL)(problem, start, silent)
    assert result.verdict["flow_kept"]
    assert "repair_gain_db" in result.verdict
    assert quality(result.estimate, pair) > quality(start, pair) + 1


def test_a_guide_that_fits_passes_through_or_loses_nothing(pair):
    loses_nothing(Ssc(**SMALL), pair)


@pytest.mark.parametrize(
    "off", [{}, {"repair": False}, {"iterations": 1}, {"spectral": False}, {"misplaced": 0.0}]
)
def test_every_switch_gives_a_network_that_learns_and_the_same_bytes_twice(off, monkeypatch):
    """With the gates held open."""
    monkeypatch.setattr(Comparison, "wins", True)
    result = repeatable(Ssc(**TINY, **off))
    assert ("repair_gain_db" in result.verdict) == (off not in ({"repair": False}, {"misplaced": 0.0}))
    assert bool(result.flow.any())


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        Ssc(iterations=0)


# --- its parts ---------------------------------------------------------------------------------------------


def texture(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth over a few pixels."""
    return F.avg_pool2d(torch.randn(1, channels, height + 4, width + 4), 5, stride=1) * 5


def test_the_cost_is_least_where_the_image_matches():
    wanted = texture(20, 24)
    seen = torch.roll(wanted, (1, -2), (2, 3))  # found one row further down, two columns to the left
    cheapest = cost_volume(wanted, seen).argmin(1)[0, 4:-4, 4:-4]
    assert bool((cheapest == 3 * 5 + 0).all())


def test_the_cost_does_not_depend_on_contrast():
    wanted, seen = texture(12, 12), texture(12, 12)
    assert torch.allclose(cost_volume(wanted, seen), cost_volume(7 * wanted, 7 * seen), atol=1e-2)


def network(iterations: int = 3, spectral: bool = True) -> ConcordanceNetwork:
    """For two guide bands and three coefficients."""
    kinds = {"width": 4, "levels": 3, "groups": 2, "heads": 2, "reach": 2.0}
    return ConcordanceNetwork(7, 5, 3, iterations=iterations, spectral=spectral, **kinds)


@pytest.mark.parametrize("size", [(16, 24), (13, 18)])
@pytest.mark.parametrize("spectral", [True, False])
def test_the_network_starts_by_changing_nothing_at_any_size(size, spectral):
    net = network(spectral=spectral)
    residual, flow = net(torch.randn(2, 7, *size), torch.randn(2, 5, *size))
    assert residual.shape == (2, 3, *size)
    assert flow.shape == (2, 2, *size)
    assert not bool(residual.any())
    assert not bool(flow.any())


def test_every_parameter_learns_once_something_is_known():
    net = network()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    residual, flow = net(torch.randn(1, 7, 16, 16), torch.randn(1, 5, 16, 16))
    (residual.square().sum() + flow.square().sum()).backward()
    assert all(bool(p.grad.any()) for p in net.parameters())


def test_iterations_share_their_weights_and_each_goes_on_from_the_last():
    features, reference, prior = torch.randn(1, 4, 9, 8), torch.randn(1, 4, 9, 8), torch.zeros(1, 2, 9, 8)
    nets = [Idfa(4, 2, 1.0, n) for n in (1, 2, 3)]
    for parameter in nets[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    flows = [net(features, reference, prior)[1].detach() for net in nets]
    steps = [float((b - a).abs().max()) for a, b in zip([prior, *flows], flows, strict=False)]
    assert all(0 < step <= 1 for step in steps)


def test_aggregation_starts_at_the_flow_it_is_given():
    prior = torch.tensor([1.0, -2.0])[None, :, None, None].expand(1, 2, 9, 8)
    _, flow = Idfa(4, 2, 2.0, 3)(torch.randn(1, 4, 9, 8), torch.randn(1, 4, 9, 8), prior)
    assert torch.allclose(flow, prior)


def test_aggregation_finds_what_is_displaced():
    place = texture(40, 40, 4)
    moved = torch.roll(place, (0, 2), (2, 3))
    net = Idfa(4, 2, 2.0, 3)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(100):
        aggregated, _ = net(place, moved, torch.zeros(1, 2, 40, 40))
        loss = ((aggregated - place) ** 2)[..., 4:-4, 4:-4].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_the_flow_learns_a_displacement_and_knows_its_direction():
    """From costs alone: the features are blank."""
    wanted = texture(32, 32)
    seen = torch.roll(wanted, (1, 2), (2, 3))
    blank = [torch.zeros(1, 4, size, size) for size in (32, 16)]
    net = OpticalFlow(4, 2)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(80):
        flow = net(blank, blank, wanted, seen)[0]
        loss = (warp(seen, flow) - wanted)[..., 4:-4, 4:-4].abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = flow.detach()[0, :, 4:-4, 4:-4].flatten(1).median(1).values
    assert torch.allclose(found, torch.tensor([2.0, 1.0]), atol=0.3)


def test_the_cost_s_gradients_are_right():
    wanted, seen = (torch.rand(1, 2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(cost_volume, (wanted, seen))


def test_a_flow_that_moves_all_alike_stretches_nothing():
    flow = torch.ones(1, 2, 5, 6)
    assert not bool(stretch(flow).any())
    flow[:, 0, :, 3:] = 4
    assert stretch(flow)[0, 0, 0].tolist() == [0, 0, 3, 0, 0, 0]


def channels_and_sight(pair) -> tuple[Channels, Sight]:
    problem = problem_of(pair)
    subspace = problem_subspace(problem)
    lift = torch.eye(subspace.size)[:2]
    sight = Sight.of(problem, subspace, within(subspace, interpolate(problem)))
    return Channels.of(problem, subspace, lift), sight


def test_hidden_pixels_do_not_claim_a_displacement(pair):
    channels, sight = channels_and_sight(pair)
    blind = replace(sight, low_weight=torch.zeros_like(sight.low_weight))
    assert bool(channels(sight)[0][:, -4:].any())
    assert not bool(channels(blind)[0][:, -4:].any())  # the contrast of four guide bands


def test_repair_sees_nothing_of_hidden_pixels(pair):
    channels, sight = channels_and_sight(pair)
    weight = torch.ones_like(sight.low_weight)
    weight[5:9, 3:8] = 0
    flow = torch.zeros(1, 2, *sight.guide.shape[1:])
    given = [
        inputs(channels, replace(sight, low_weight=weight, low=low), flow)
        for low in (sight.low, torch.where(weight > 0, sight.low, 50.0))
    ]
    assert all(torch.equal(one, other) for one, other in zip(*given, strict=True))


def test_repair_starts_by_adding_nothing():
    added = Repair(3, 8)(torch.randn(1, 3, 9, 7), torch.randn(1, 3, 9, 7), torch.randn(1, 2, 9, 7))
    assert added.shape == (1, 3, 9, 7)
    assert not bool(added.any())


def test_repair_adds_nothing_where_the_warp_stretches_nothing():
    net, flow = Repair(3, 8), torch.zeros(1, 2, 9, 7)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    flow[:, 0, :, 3:] = 0.5
    added = net(torch.randn(1, 3, 9, 7), torch.randn(1, 3, 9, 7), flow)
    assert added.any(1).any(1)[0].tolist() == [False, False, True, False, False, False, False]


def test_spectral_fusion_brings_the_reference_in():
    net, features = SpectralFusion(4, 2), torch.randn(1, 4, 6, 7)
    one, other = (net(features, torch.randn(1, 4, 6, 7)) for _ in range(2))
    assert one.shape == features.shape
    assert not torch.allclose(one, other)


def test_a_flow_that_undoes_the_misplacement_ends_on_target():
    """What `Lesson` weighs by `endpoint`: composed with what it undoes, a flow is nothing."""
    applied = torch.tensor([1.5, -0.5])[None, :, None, None].expand(1, 2, 8, 8)
    off = -applied + warp(applied, -applied)
    assert float(off.abs().max()) < LEAST_STEP

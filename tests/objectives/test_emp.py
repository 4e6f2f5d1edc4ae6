import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.config import build
from empssl.errors import UsageError
from empssl.objectives import OBJECTIVES
from empssl.objectives.emp import EMP
from empssl.training.step import objective_loss


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def total(projections: Tensor) -> float:
    return float(EMP()(projections).total)


@pytest.mark.parametrize(
    ("dim", "collapsed", "best", "random"),
    [(1024, -204.270, -397.754, -240.1), (512, -203.924, -364.046, -204.0)],
)
def test_oracle_values(dim: int, collapsed: float, best: float, random: float) -> None:
    """lambda 200, eps^2 0.2, 100 images, 20 views. With its sign flipped it would prefer -195.7."""
    alike = normal(dim).expand(20, 100, dim)
    orthogonal = torch.eye(dim)[:100].expand(20, 100, dim)
    assert total(alike) == pytest.approx(collapsed, abs=2e-3)
    assert total(orthogonal) == pytest.approx(best, abs=2e-3)
    assert total(normal(20, 100, dim)) == pytest.approx(random, abs=0.3)


def test_collapse_is_worse_than_random_directions() -> None:
    assert total(normal(1024).expand(20, 100, 1024)) > total(normal(20, 100, 1024)) + 30


def test_the_length_of_projections_does_not_matter() -> None:
    z, lengths = normal(4, 8, 16).double(), normal(4, 8, 1, seed=1).double().exp()
    assert float(EMP()(lengths * z).total) == pytest.approx(float(EMP()(z).total), rel=1e-12)


def test_similarity_is_one_for_equal_views_and_far_below_for_independent_ones() -> None:
    z = normal(1, 50, 256)
    assert float(EMP()(z.expand(20, -1, -1)).terms["similarity"]) == pytest.approx(1)
    independent = float(EMP()(normal(20, 50, 256)).terms["similarity"])
    assert independent == pytest.approx(20**-0.5, abs=0.01)


def test_shuffling_the_images_of_one_view_lowers_the_similarity_and_keeps_the_coding_rate() -> None:
    z = (normal(1, 30, 64) + 0.5 * normal(5, 30, 64, seed=1)).double()
    shuffled = z.clone()
    shuffled[2] = z[2].roll(1, 0)
    before, after = EMP()(z).terms, EMP()(shuffled).terms
    assert after["similarity"] < before["similarity"] - 0.05
    assert float(after["coding_rate"]) == pytest.approx(float(before["coding_rate"]), rel=1e-12)


def test_the_similarity_pulls_every_view_straight_to_the_mean_view() -> None:
    """Its gradient is zbar / (n b ||zbar||), less the part along z."""
    z = F.normalize(normal(4, 6, 8).double(), dim=-1).requires_grad_()
    (gradient,) = torch.autograd.grad(EMP()(z).terms["similarity"], z)
    center = F.normalize(z.mean(0, keepdim=True), dim=-1) / (4 * 6)
    expected = center - (center * z).sum(-1, keepdim=True) * z
    assert torch.allclose(gradient, expected, atol=1e-12)


@pytest.mark.parametrize("fraction", [0.5, 0.95])
def test_half_collapsed_projections_survive_autocast(fraction: float) -> None:
    for seed in range(2):
        z = normal(4, 100, 1024, seed=seed)
        z[:, : int(100 * fraction)] = normal(1024, seed=9) + 1e-3 * z[:, : int(100 * fraction)]
        given = z.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective_loss(EMP(), given)
        loss.total.backward()
        assert given.grad is not None
        assert given.grad.isfinite().all()
        assert float(loss.total.detach()) == pytest.approx(total(z.double()), rel=1e-4)


def test_the_weight_multiplies_the_similarity_alone() -> None:
    z = normal(4, 8, 16).double()
    terms = EMP()(z).terms
    expected = -terms["coding_rate"] - 7 * terms["similarity"]
    assert float(EMP(invariance_weight=7.0)(z).total) == pytest.approx(float(expected))


@pytest.mark.parametrize("distortion", [0.0, -0.2])
def test_a_distortion_that_is_not_positive_is_refused_when_the_objective_is_made(
    distortion: float,
) -> None:
    with pytest.raises(UsageError, match="expected a positive number"):
        build(OBJECTIVES, {"name": "emp", "distortion": distortion})

"""What n views cost n for, against the mean over all pairs of what two views are defined by.

Each two-view loss is written here once more, from its source, for two matrices of rows.
"""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from empssl.config import Spec, build, complete
from empssl.objectives import OBJECTIVES
from empssl.objectives.functional import mean_of_others, mean_product, mean_square_distance

SIZES = [(10, 4), (4, 10)]


def projections(views: int, batch: int, dim: int, *, seed: int = 0) -> Tensor:
    """Rows of many lengths, of which views of an image have a part in common."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    mixed = normal(1, batch, dim) + 0.7 * normal(views, batch, dim) + 0.3 * normal(dim)
    return mixed * (0.5 * normal(views, batch, 1)).exp() / 2


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b).mean()


def barlow_twins(
    a: Tensor, b: Tensor, *, redundancy_weight: float, epsilon: float, scale: float
) -> Tensor:
    a, b = (F.batch_norm(rows, None, None, training=True, eps=epsilon) for rows in (a, b))
    eye = torch.eye(a.shape[1], dtype=a.dtype)
    weights = eye + redundancy_weight * (1 - eye)
    return scale * (weights * (a.T @ b / len(a) - eye) ** 2).sum()


def frossl(a: Tensor, b: Tensor, *, invariance_weight: float, epsilon: float) -> Tensor:
    a, b = (F.normalize(rows - rows.mean(0), dim=0) for rows in (a, b))
    norms = [torch.linalg.matrix_norm(rows.T @ rows / torch.trace(rows.T @ rows))
             for rows in (a, b)]  # fmt: skip
    distance = invariance_weight * (a - b).square().sum() / len(a)
    return distance + 2 * norms[0].log() + 2 * norms[1].log()


def mmcr(a: Tensor, b: Tensor) -> Tensor:
    center = (F.normalize(a, dim=1) + F.normalize(b, dim=1)) / 2
    return -torch.linalg.matrix_norm(center, "nuc")


def simclr(a: Tensor, b: Tensor, *, temperature: float, partners: str) -> Tensor:
    rows = F.normalize(torch.cat([a, b]), dim=1)
    logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(rows)).roll(len(a)))


def spectral_contrastive(a: Tensor, b: Tensor, *, squared_radius: float) -> Tensor:
    a, b = (torch.where(rows.norm(dim=1, keepdim=True) > squared_radius**0.5,
                        squared_radius**0.5 * F.normalize(rows, dim=1), rows)
            for rows in (a, b))  # fmt: skip
    products = a @ b.T
    other = ~torch.eye(len(a), dtype=torch.bool)
    return (products[other].square().mean() - 2 * products[~other].mean()) / squared_radius


def ssl_ey(a: Tensor, b: Tensor) -> Tensor:
    both = torch.cov(torch.cat([a, b], 1).T)
    dim = a.shape[1]
    V = both[:dim, :dim] + both[dim:, dim:]
    C = both[:dim, dim:] + both[dim:, :dim]
    return (V @ V).trace() - 2 * C.trace()


def tcr(a: Tensor, b: Tensor, *, invariance_weight: float, distortion: float,
        pooled: bool) -> Tensor:  # fmt: skip
    def rate(rows: Tensor) -> Tensor:
        count, dim = rows.shape
        z = F.normalize(rows, dim=1)
        eye = torch.eye(dim, dtype=z.dtype)
        return torch.logdet(eye + dim / (count * distortion) * z.T @ z) / 2

    spread = rate(torch.cat([a, b])) if pooled else (rate(a) + rate(b)) / 2
    return -spread - invariance_weight * cosine(a, b)


def vicreg(a: Tensor, b: Tensor, *, invariance_weight: float, variance_weight: float,
           covariance_weight: float, epsilon: float) -> Tensor:  # fmt: skip
    loss = invariance_weight * F.mse_loss(a, b)
    for rows in (a, b):
        C = torch.cov(rows.T)
        off_diagonal = C - C.diag().diag()
        loss = loss + variance_weight * F.relu(1 - (rows.var(0) + epsilon).sqrt()).mean() / 2
        loss = loss + covariance_weight * off_diagonal.square().sum() / rows.shape[1]
    return loss


def vne(a: Tensor, b: Tensor, *, invariance_weight: float, entropy_weight: float,
        epsilon: float) -> Tensor:  # fmt: skip
    def entropy(rows: Tensor) -> Tensor:
        shares = torch.linalg.svdvals(F.normalize(rows, dim=1)) ** 2 / len(rows)
        return -(shares * (shares + epsilon).log()).sum()

    spread = (entropy(a) + entropy(b)) / 2
    return -invariance_weight * cosine(a, b) - entropy_weight * spread


def wmse(a: Tensor, b: Tensor, *, slice_size: int | None, shrinkage: float,
         epsilon: float) -> Tensor:  # fmt: skip
    def whiten(rows: Tensor) -> Tensor:
        C, eye = torch.cov(rows.T), torch.eye(rows.shape[1], dtype=rows.dtype)
        floor = shrinkage * C.trace() / len(C) + epsilon
        L = torch.linalg.cholesky((1 - shrinkage) * C + floor * eye)
        return (rows - rows.mean(0)) @ torch.linalg.inv(L).T

    size = slice_size or len(a)
    a, b = (torch.cat([whiten(part) for part in rows.split(size)]) for rows in (a, b))
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()


Case = tuple[Spec, Callable[..., Tensor]]
EXACT: list[Case] = [
    ({"name": "frossl"}, frossl),
    ({"name": "simclr", "partners": "each"}, simclr),
    ({"name": "spectral_contrastive"}, spectral_contrastive),
    ({"name": "spectral_contrastive", "squared_radius": 0.5}, spectral_contrastive),
    ({"name": "ssl_ey"}, ssl_ey),
    ({"name": "tcr", "pooled": False}, tcr),
    ({"name": "vicreg"}, vicreg),
    ({"name": "vne"}, vne),
    ({"name": "wmse"}, wmse),
    ({"name": "wmse", "slice_size": 2}, wmse),
]
NOT_EXACT: list[Case] = [
    ({"name": "barlow_twins"}, barlow_twins),
    ({"name": "mmcr"}, mmcr),
    ({"name": "simclr"}, simclr),
    ({"name": "tcr"}, tcr),
]


def value_and_gradient(loss: Callable[[Tensor], Tensor], given: Tensor) -> tuple[Tensor, Tensor]:
    z = given.clone().requires_grad_()
    value = loss(z)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def objective(spec: Spec, given: Tensor) -> tuple[Tensor, Tensor]:
    made = build(OBJECTIVES, spec)
    return value_and_gradient(lambda z: made(z).total, given)


def mean_over_pairs(
    spec: Spec, two_views: Callable[..., Tensor], given: Tensor
) -> tuple[Tensor, Tensor]:
    options = complete(OBJECTIVES, spec)
    del options["name"]

    def loss(z: Tensor) -> Tensor:
        return torch.stack([two_views(a, b, **options) for a, b in combinations(z, 2)]).mean()

    return value_and_gradient(loss, given)


def names(cases: list[Case]) -> list[str]:
    return ["-".join(str(value) for value in spec.values()) for spec, _ in cases]


@pytest.mark.parametrize(("spec", "two_views"), EXACT, ids=names(EXACT))
@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize(("batch", "dim"), SIZES)
def test_exact_objectives_are_the_mean_over_pairs_of_views(
    spec: Spec, two_views: Callable[..., Tensor], views: int, batch: int, dim: int
) -> None:
    given = projections(views, batch, dim)
    value, gradient = objective(spec, given)
    expected, expected_gradient = mean_over_pairs(spec, two_views, given)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("spec", "two_views"), NOT_EXACT, ids=names(NOT_EXACT))
@pytest.mark.parametrize(("batch", "dim"), SIZES)
def test_the_others_are_the_published_loss_of_two_views(
    spec: Spec, two_views: Callable[..., Tensor], batch: int, dim: int
) -> None:
    given = projections(2, batch, dim)
    value, gradient = objective(spec, given)
    expected, expected_gradient = mean_over_pairs(spec, two_views, given)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("spec", "two_views"), NOT_EXACT, ids=names(NOT_EXACT))
def test_the_others_are_not_the_mean_over_pairs_of_three_views(
    spec: Spec, two_views: Callable[..., Tensor]
) -> None:
    given = projections(3, 10, 4)
    (value, _), (pairs, _) = objective(spec, given), mean_over_pairs(spec, two_views, given)
    assert float(value) != pytest.approx(float(pairs), rel=1e-5)


def test_docstrings_say_which_are_exact() -> None:
    exact = {spec["name"] for spec, _ in EXACT if len(spec) == 1}
    others = {spec["name"] for spec, _ in NOT_EXACT}
    said = {name: OBJECTIVES[name].__doc__ or "" for name in exact | others}
    assert {name for name, text in said.items() if "Any n: exact" in text} == exact
    assert {name for name, text in said.items()
            if "Any n: not exact" in text or "Any n: as published" in text} == others  # fmt: skip


@pytest.mark.parametrize("views", [2, 3, 5])
def test_sums_over_pairs_are_those_of_a_loop(views: int) -> None:
    z = projections(views, 4, 3)
    pairs = list(combinations(z, 2))
    product = sum((a * b).sum(-1).mean() for a, b in pairs) / len(pairs)
    distance = sum((a - b).square().sum(-1).mean() for a, b in pairs) / len(pairs)
    assert float(mean_product(z)) == pytest.approx(float(product), rel=1e-12)
    assert float(mean_square_distance(z)) == pytest.approx(float(distance), rel=1e-12)
    for i in range(views):
        others = torch.stack([z[j] for j in range(views) if j != i])
        assert torch.allclose(mean_of_others(z)[i], others.mean(0), atol=1e-12)


def test_the_distance_of_near_views_far_from_the_origin_survives_single_precision() -> None:
    near = 1000 + 0.01 * projections(3, 4, 3)
    expected = float(mean_square_distance(near.float().double()))
    assert float(mean_square_distance(near.float())) == pytest.approx(expected, rel=1e-2)

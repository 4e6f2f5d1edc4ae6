import math

import pytest
import torch
import torch.nn.functional as F

from empssl.config import build
from empssl.errors import UsageError
from empssl.objectives import OBJECTIVES
from empssl.objectives.simclr import SimCLR


@pytest.mark.parametrize("views", [2, 5])
def test_equal_views_at_right_angles_by_hand(views: int) -> None:
    """One logit of 1 / temperature among 2b - 1, the others 0."""
    total = float(SimCLR(temperature=0.5)(torch.eye(8)[:6].expand(views, 6, 8)).total)
    assert total == pytest.approx(math.log(math.exp(2) + 10) - 2, rel=1e-6)


def test_all_alike_is_as_good_as_guessing() -> None:
    assert float(SimCLR()(torch.ones(3, 6, 8)).total) == pytest.approx(math.log(11), rel=1e-6)


def test_a_mean_view_is_an_easier_partner_than_a_view() -> None:
    generator = torch.Generator().manual_seed(0)
    image, own = (torch.randn(n, 10, 8, generator=generator) for n in (1, 6))
    z = F.normalize(image + own, dim=-1)
    mean, each = (SimCLR(partners=partners)(z) for partners in ("mean", "each"))
    assert float(mean.terms["similarity"]) > float(each.terms["similarity"]) + 0.1
    assert float(mean.total) < float(each.total)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("temperature", 0.0, "expected a positive number"), ("partners", "means", "mean")],
)
def test_options_out_of_range_are_refused(option: str, value: object, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        build(OBJECTIVES, {"name": "simclr", option: value})

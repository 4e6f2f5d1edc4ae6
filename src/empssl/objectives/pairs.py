"""Sums over all pairs of views, at the cost of the views.

For n rows z_i of one image with mean zbar,

    sum over i != j of z_i . z_j      = n^2 ||zbar||^2 - sum_i ||z_i||^2
    sum over i <  j of ||z_i - z_j||^2 = n sum_i ||z_i - zbar||^2

and whatever view i makes of the mean of the others, (n zbar - z_i) / (n - 1), is for two views what
it makes of the other one.
"""

from empssl.shapes import Projections, Scalar
from empssl.view_axis import HERE, ViewAxis


def mean_product(projections: Projections, views: ViewAxis = HERE) -> Scalar:
    """z_i . z_j, averaged over pairs of views and over images; of unit rows, the mean cosine.

    >>> import torch
    >>> z = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])  # pairs: 1, 0, 0
    >>> round(float(mean_product(z)), 6)
    0.333333
    """
    view = views.count(projections)
    every = views.sum(projections).square().sum(-1).mean()
    same = views.sum(projections.square().sum(-1).mean(-1))
    return (every - same) / (view * (view - 1))


def mean_square_distance(projections: Projections, views: ViewAxis = HERE) -> Scalar:
    """||z_i - z_j||^2, averaged over pairs of views and over images.

    >>> import torch
    >>> z = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])  # pairs: 0, 2, 2
    >>> round(float(mean_square_distance(z)), 6)
    1.333333
    """
    apart = (projections - views.mean(projections)).square().sum(-1).mean(-1)  # view
    return views.sum(apart) * 2 / (views.count(projections) - 1)


def mean_of_others(projections: Projections, views: ViewAxis = HERE) -> Projections:
    """For each view, the mean of all other views; of two views, the other one.

    >>> import torch
    >>> mean_of_others(torch.tensor([[[1.0]], [[2.0]], [[6.0]]])).flatten().tolist()
    [4.0, 3.5, 1.5]
    """
    return (views.sum(projections) - projections) / (views.count(projections) - 1)

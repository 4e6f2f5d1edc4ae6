import pytest
import torch
from references import knn as plain

import empssl.evaluation.probes.knn as module
from empssl.errors import DataError, UsageError
from empssl.evaluation.probes.knn import Whitening, knn_score, neighbors, whitened_knn_score
from empssl.models import EmbeddingPart


def normal(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_neighbors_are_those_of_the_reference() -> None:
    queries, bank = normal(0, 7, 5), normal(1, 40, 5)
    similarities, rows = neighbors(queries, bank, 6)
    for q, near, order in zip(queries, similarities, rows, strict=True):
        expected = plain.neighbors(q.double().numpy(), bank.double().numpy(), 6)
        assert order.tolist() == [i for _, i in expected]
        assert near.tolist() == pytest.approx([s for s, _ in expected], abs=1e-6)


def test_votes_are_those_of_the_reference() -> None:
    bank, test = normal(0, 60, 4), normal(1, 50, 4)
    labels = torch.arange(60) % 3
    expected = torch.tensor(
        [
            plain.vote(q.double().numpy(), bank.double().numpy(), labels.numpy(), 9, 0.2)
            for q in test
        ]
    )
    assert knn_score(bank, labels, test, expected, k=9, temperature=0.2).accuracy == 100.0
    other = (expected + 1) % 3
    assert knn_score(bank, labels, test, other, k=9, temperature=0.2).accuracy == 0.0


def test_two_near_neighbors_outvote_three_far_ones_only_when_the_temperature_is_low() -> None:
    bank = torch.tensor([[1.0, 0.1], [1.0, 0.1], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    query, answer = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert knn_score(bank, labels, query, answer, k=5, temperature=0.07).accuracy == 100.0
    assert knn_score(bank, labels, query, answer, k=5, temperature=10.0).accuracy == 0.0


def test_a_tiny_temperature_is_the_nearest_neighbor() -> None:
    bank, labels, test = normal(0, 30, 4), torch.arange(30) % 3, normal(1, 20, 4)
    nearest = labels[neighbors(test, bank, 1)[1][:, 0]]
    assert knn_score(bank, labels, test, nearest, k=20, temperature=1e-6).accuracy == 100.0


def test_of_equal_similarities_the_lower_row_comes_first() -> None:
    bank = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    similarities, rows = neighbors(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), bank, 2)
    assert rows.tolist() == [[1, 2], [0, 4]]
    assert similarities.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_ties_past_the_last_place_keep_the_lowest_rows() -> None:
    bank = torch.eye(3)[torch.arange(300) % 3]
    _, rows = neighbors(torch.eye(3), bank, 7)
    assert rows.tolist() == [[first + 3 * i for i in range(7)] for first in range(3)]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = normal(0, 23, 5), normal(1, 40, 5)
    whole = neighbors(queries, bank, 4)
    monkeypatch.setattr(module, "_SIMILARITIES", 5 * len(bank))
    chunked = neighbors(queries, bank, 4)
    assert torch.equal(whole[1], chunked[1])
    assert torch.allclose(whole[0], chunked[0], atol=1e-6)


def test_length_does_not_matter() -> None:
    queries, bank = normal(0, 6, 5), normal(1, 40, 5)
    scaled = bank * torch.arange(1, 41)[:, None]
    assert torch.equal(neighbors(queries, bank, 3)[1], neighbors(queries * 7, scaled, 3)[1])


def test_more_neighbors_than_images_are_cut_and_recorded() -> None:
    bank, labels = normal(0, 6, 4), torch.arange(6) % 2
    score = knn_score(bank, labels, bank, labels, k=20)
    assert (score.details["k"], score.details["k_asked"]) == (6, 20)


def test_scores_chance_on_random_labels() -> None:
    labels = torch.randint(4, (800,), generator=torch.Generator().manual_seed(2))
    score = knn_score(normal(0, 400, 6), labels[:400], normal(1, 400, 6), labels[400:])
    assert 16 < score.accuracy < 34  # a quarter, and four standard errors


def test_scores_100_on_separate_clusters_under_any_names() -> None:
    labels = torch.arange(60) % 3
    x = torch.eye(3)[labels] + 0.05 * normal(0, 60, 3)
    names = torch.tensor([5, 0, 9])
    assert knn_score(x[:30], labels[:30], x[30:], labels[30:]).accuracy == 100.0
    assert knn_score(x[:30], names[labels[:30]], x[30:], names[labels[30:]]).accuracy == 100.0


@pytest.mark.parametrize("option", [{"k": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_options_that_are_not_positive_are_refused(option: dict[str, float]) -> None:
    x, labels = normal(0, 6, 4), torch.arange(6) % 2
    with pytest.raises(UsageError, match="give"):
        knn_score(x, labels, x, labels, **option)


def test_a_test_class_that_train_lacks_is_refused() -> None:
    x, labels = normal(0, 6, 4), torch.arange(6) % 2
    with pytest.raises(DataError, match="test has class 3, which train does not"):
        knn_score(x, labels, x, labels.masked_fill(labels == 1, 3))


def correlated(seed: int, count: int, dim: int = 6) -> torch.Tensor:
    """Far from white: directions of a hundred times the variance of others, and a mean."""
    scales = torch.logspace(0.5, -0.5, dim)
    return (normal(seed, count, dim) * scales) @ torch.linalg.qr(normal(9, dim, dim)).Q + 3.0


def test_whitened_votes_are_those_of_the_reference() -> None:
    bank, test = correlated(0, 60), correlated(1, 50)
    labels = torch.arange(60) % 3
    white = plain.whitened(bank.double().numpy(), test.double().numpy())
    expected = torch.tensor([plain.vote(q, white[0], labels.numpy(), 9, 0.2) for q in white[1]])
    options = {"k": 9, "temperature": 0.2}
    assert whitened_knn_score(bank, labels, test, expected, **options).accuracy == 100.0
    assert knn_score(bank, labels, test, expected, **options).accuracy < 90.0


def test_whitened_embeddings_have_the_identity_as_covariance() -> None:
    bank = correlated(0, 500)
    white = Whitening.of(bank)(bank)
    assert torch.allclose(torch.cov(white.T, correction=0), torch.eye(6), atol=1e-3)


def test_a_direction_without_variance_is_not_blown_up() -> None:
    bank = torch.cat([normal(0, 100, 4), 1e-6 * normal(1, 100, 1)], 1)
    white = Whitening.of(bank)(bank)
    assert white.std(0).min() < 1e-3
    assert bool(Whitening.of(torch.ones(5, 3))(torch.ones(2, 3)).eq(0).all())


def test_of_many_features_the_leading_components_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scales = torch.cat([torch.linspace(5, 2, 8), torch.linspace(0.2, 0.1, 40)])
    basis = torch.linalg.qr(normal(9, 48, 48)).Q
    bank, test = ((normal(seed, 300, 48) * scales) @ basis for seed in (0, 1))
    exact = Whitening.of(bank)
    monkeypatch.setattr(module, "_COMPONENTS", 8)
    leading = Whitening.of(bank)
    assert leading.basis.shape == (48, 8)
    found, expected = leading(test).abs(), exact(test)[:, -8:].abs()
    assert torch.allclose(found, expected, atol=2e-2)


def test_of_fewer_images_than_features_their_span_is_whitened() -> None:
    bank = torch.cat([correlated(0, 20), 0.1 * normal(1, 20, 40)], 1)
    query = bank[:7] + 0.01 * bank[7:14]
    white = plain.whitened(bank.double().numpy(), query.double().numpy())
    found = Whitening.of(bank)
    assert found.basis.shape == (46, 19)
    expected = torch.from_numpy(white[1] @ white[0].T).float()
    assert torch.allclose(found(query) @ found(bank).T, expected, rtol=1e-3, atol=1e-2)


def test_parts_are_weighed_before_cosines() -> None:
    bank = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    query, labels = torch.tensor([[0.8, 0.0, 1.0]]), torch.tensor([0, 1])
    bank[1, 2] = 0.7
    heavy = (EmbeddingPart("a", 2, 3.0), EmbeddingPart("b", 1, 1.0))
    assert knn_score(bank, labels, query, torch.tensor([1]), k=1).accuracy == 0.0
    light = (EmbeddingPart("a", 2, 1.0), EmbeddingPart("b", 1, 3.0))
    assert knn_score(bank, labels, query, torch.tensor([0]), k=1, parts=heavy).accuracy == 100.0
    assert knn_score(bank, labels, query, torch.tensor([1]), k=1, parts=light).accuracy == 100.0
    with pytest.raises(DataError, match="parts of 2 features were given for embeddings of 3"):
        knn_score(bank, labels, query, torch.tensor([1]), parts=heavy[:1])

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from references import linear as plain
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.evaluation.probes.base import Classifier, Labeled, Score, Standardization
from empssl.evaluation.probes.linear import (
    lbfgs_probe,
    sgd_probe,
    sgd_regression,
    softmax_regression,
)
from empssl.evaluation.probes.ridge import ridge_probe
from empssl.models import EmbeddingPart

PROBES = [sgd_probe, lbfgs_probe, ridge_probe]
CHOOSERS = [lbfgs_probe, ridge_probe]
Probe = Callable[..., Score]
Sets = tuple[Tensor, Tensor, Tensor, Tensor]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(
    seed: int = 0, *, train: int = 120, test: int = 60, dim: int = 6, spread: float = 1.0
) -> Sets:
    """Three classes around three centers, 3 apart from the middle; `spread` 1 overlaps a little."""
    generator = random(seed)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % 3
        noise = torch.randn(n, dim, generator=generator)
        return 3 * torch.eye(3, dim)[labels] + spread * noise + 5, labels

    return *draw(train), *draw(test)


def shuffled(labels: Tensor, seed: int = 9) -> Tensor:
    return labels[torch.randperm(len(labels), generator=random(seed))]


def right(predicted: np.ndarray, labels: Tensor) -> float:
    return 100 * int((predicted == labels.numpy()).sum()) / len(labels)


@pytest.mark.parametrize("probe", PROBES)
def test_scores_100_on_classes_a_plane_separates(probe: Probe) -> None:
    score = probe(*clusters(spread=0.1))
    assert (score.accuracy, score.balanced_accuracy) == (100.0, 100.0)
    assert score.per_class == [100.0, 100.0, 100.0]


@pytest.mark.parametrize("probe", PROBES)
def test_scores_chance_on_random_labels(probe: Probe) -> None:
    train, train_labels, test, test_labels = clusters(train=600, test=600)
    score = probe(train, shuffled(train_labels, 1), test, shuffled(test_labels, 2))
    assert 25 < score.accuracy < 42  # a third, and four standard errors


@pytest.mark.parametrize("probe", PROBES)
def test_renaming_the_classes_permutes_per_class_and_no_more(probe: Probe) -> None:
    train, train_labels, test, test_labels = clusters(spread=1.5)
    names = torch.tensor([7, 2, 40])
    score = probe(train, train_labels, test, test_labels)
    renamed = probe(train, names[train_labels], test, names[test_labels])
    assert renamed.accuracy == pytest.approx(score.accuracy, abs=1.7)  # one tie of 60 may turn
    expected = [score.per_class[1], score.per_class[0], score.per_class[2]]
    assert renamed.per_class == pytest.approx(expected, abs=5.1)


def test_fewer_images_than_features_are_solved_as_in_all_features() -> None:
    train, labels, test, test_labels = clusters(train=24, test=60, dim=80, spread=1.5)
    found = lbfgs_probe(train, labels, test, test_labels, strengths=[0.1])
    scaling = Standardization.of(train)
    x = scaling(train)
    zero = Classifier(torch.zeros(3, 80), torch.zeros(3))
    whole = softmax_regression(x, labels, 0.1, zero, x.T @ x / len(x))
    expected = whole.logits(scaling(test)).softmax(1)
    assert found.predictions.probabilities is not None
    assert torch.allclose(found.predictions.probabilities, expected, atol=1e-3)


def test_ridge_of_fewer_images_than_features_is_that_in_all_features() -> None:
    train, labels, test, _ = clusters(train=24, test=60, dim=80, spread=1.5)
    x = Standardization.of(train)(train).double()
    target = torch.eye(3, dtype=torch.float64)[labels]
    gram = x.T @ x / len(x) + 0.1 * torch.eye(80, dtype=torch.float64)
    weight = torch.linalg.solve(gram, x.T @ (target - target.mean(0)) / len(x))
    z = Standardization.of(train)(test).double()
    expected = (z @ weight + target.mean(0)).argmax(1)
    assert expected.bincount().min() > 0
    assert ridge_probe(train, labels, test, expected, strengths=[0.1]).accuracy == 100.0


@pytest.mark.parametrize("probe", CHOOSERS)
def test_a_part_of_weight_3_is_features_of_three_times_the_deviation(probe: Probe) -> None:
    train, labels, test, test_labels = clusters(spread=2.0, dim=8)
    scaling = Standardization.of(train)
    weights = torch.tensor([3.0] * 2 + [1.0] * 6)
    weights = weights / weights.square().mean().sqrt()
    weighted = Standardization.of(train, [EmbeddingPart("a", 2, 3.0), EmbeddingPart("b", 6, 1.0)])
    assert torch.allclose(weighted(test), scaling(test) * weights, atol=1e-5)
    assert weighted(train).square().mean().item() == pytest.approx(1.0, abs=1e-4)
    options = {
        "strengths": [1.0],
        "parts": [EmbeddingPart("a", 2, 30.0), EmbeddingPart("b", 6, 0.01)],
    }
    two = probe(train[:, :2], labels, test[:, :2], test_labels, strengths=[0.25])
    found = probe(train, labels, test, test_labels, **options)
    assert found.accuracy == pytest.approx(two.accuracy, abs=1.7)  # the others weigh nothing
    assert found.accuracy != probe(train, labels, test, test_labels, strengths=[1.0]).accuracy
    with pytest.raises(DataError, match="parts of 2 features"):
        probe(train, labels, test, test_labels, parts=[EmbeddingPart("a", 2, 1.0)])


@pytest.mark.parametrize("probe", PROBES)
def test_every_protocol_repeats_itself_with_its_seed(probe: Probe) -> None:
    assert probe(*clusters(), seed=3) == probe(*clusters(), seed=3)


@pytest.mark.parametrize("probe", PROBES)
def test_scores_fit_into_json(probe: Probe) -> None:
    score = asdict(probe(*clusters()))
    del score["predictions"]
    assert json.loads(json.dumps(score)) == score


@pytest.mark.parametrize("probe", PROBES)
def test_test_images_change_nothing_that_is_learned(probe: Probe) -> None:
    train, train_labels, test, test_labels = clusters(spread=2.0)
    score = probe(train, train_labels, test, test_labels)
    other = probe(train, train_labels, test.flip(0)[:30] * 2, shuffled(test_labels)[:30])
    assert other.accuracy != score.accuracy
    for found in (other, score):
        found.details.pop("best_on_test", None)  # of the published probe, and said to be so
    assert other.details == score.details  # the strength, each held-out score, train accuracy


def test_sgd_takes_the_steps_of_the_reference() -> None:
    train, labels, _, _ = clusters(train=50, spread=2.0)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "batch": 16, "epochs": 4}
    *_, (weight, bias) = plain.sgd_epochs(train.double().numpy(), labels.numpy(), **options, seed=5)
    fitted = sgd_regression(train, labels, 3, **options, seed=5)
    assert np.allclose(fitted.weight, weight, atol=1e-4)
    assert np.allclose(fitted.bias, bias, atol=1e-4)


def test_sgd_reports_the_last_epoch_and_not_the_best() -> None:
    train, train_labels, test, test_labels = clusters(train=50, spread=2.0)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "batch": 16, "epochs": 8}
    epochs = plain.sgd_epochs(train.double().numpy(), train_labels.numpy(), **options, seed=0)
    curve = [
        right((test.double().numpy() @ weight.T + bias).argmax(1), test_labels)
        for weight, bias in epochs
    ]
    assert max(curve) > curve[-1]
    score = sgd_probe(train, train_labels, test, test_labels, **options)
    assert score.accuracy == curve[-1]
    assert score.details["best_on_test"] == max(curve)


def test_sgd_uses_the_images_of_an_incomplete_batch() -> None:
    train, labels = torch.eye(3).repeat(2, 1)[:5], torch.tensor([0, 1, 2, 0, 1])
    score = sgd_probe(train, labels, train, labels, batch=100, epochs=20)
    assert score.accuracy == 100.0


def test_softmax_regression_is_where_the_gradient_vanishes() -> None:
    train, labels, _, _ = clusters(spread=2.0)
    x = Standardization.of(train)(train)
    for strength in (1.0, 1e-2, 1e-4):
        start = Classifier(torch.zeros(3, 6), torch.zeros(3))
        fitted = softmax_regression(x, labels, strength, start, x.T @ x / len(x))
        _, weight_gradient, bias_gradient = plain.softmax_loss_gradient(
            fitted.weight.double().numpy(), fitted.bias.double().numpy(),
            x.double().numpy(), labels.numpy(), strength,
        )  # fmt: skip
        assert max(abs(weight_gradient).max(), abs(bias_gradient).max()) < 1e-4


def test_softmax_regression_agrees_with_scikit_learn() -> None:
    train, labels, _, _ = clusters(spread=2.0, dim=20)
    x = Standardization.of(train)(train)
    start = Classifier(torch.zeros(3, 20), torch.zeros(3))
    fitted = softmax_regression(x, labels, 0.01, start, x.T @ x / len(x))
    theirs = LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-8, max_iter=2000)
    theirs.fit(x.double().numpy(), labels.numpy())
    assert np.allclose(fitted.weight, theirs.coef_, atol=2e-3)
    assert np.allclose(fitted.bias - fitted.bias.mean(), theirs.intercept_, atol=2e-3)


def test_softmax_regression_does_not_depend_on_its_coordinates() -> None:
    train, labels, _, _ = clusters(spread=2.0)
    x = Standardization.of(train)(train)
    start = Classifier(torch.zeros(3, 6), torch.zeros(3))
    round_, plain_ = (
        softmax_regression(x, labels, 0.01, start, gram)
        for gram in (x.T @ x / len(x), torch.eye(6))
    )
    assert torch.allclose(round_.weight, plain_.weight, atol=2e-3)


def test_repeated_and_constant_features_do_no_harm() -> None:
    train, train_labels, test, test_labels = clusters(spread=0.1)
    repeated = [torch.cat([part, part, part * 0 + 3], 1) for part in (train, test)]
    assert lbfgs_probe(repeated[0], train_labels, repeated[1], test_labels).accuracy == 100.0
    assert ridge_probe(repeated[0], train_labels, repeated[1], test_labels).accuracy == 100.0


def test_ridge_passes_over_penalties_that_rounding_outweighs() -> None:
    train, train_labels, test, test_labels = clusters(spread=0.1)
    mixed = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    score = ridge_probe(
        train @ mixed, train_labels, test @ mixed, test_labels, strengths=(0.1, 1e-14)
    )
    assert (score.accuracy, score.details["strength"]) == (100.0, 0.1)
    assert score.details["held_out"]["1e-14"] == 0.0


def test_ridge_equals_least_squares() -> None:
    train, train_labels, test, test_labels = clusters(spread=2.0)
    weight, bias = plain.ridge(train.double().numpy(), train_labels.numpy(), 0.1)
    predicted = (test.double().numpy() @ weight.T + bias).argmax(1)
    score = ridge_probe(train, train_labels, test, test_labels, strengths=[0.1])
    assert score.accuracy == right(predicted, test_labels)


def test_ridge_has_a_bias_that_meets_uneven_classes() -> None:
    """Where features say nothing, the most frequent class is the best answer."""
    noise = torch.randn(400, 4, generator=random(0))
    labels = (torch.arange(400) % 10 == 0).long()
    assert ridge_probe(noise, labels, noise, labels, strengths=[1.0]).accuracy == 90.0
    train, _, test, _ = clusters(train=200, test=200, spread=4.0)
    uneven = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2]).repeat(20)
    weight, bias = plain.ridge(train.double().numpy(), uneven.numpy(), 0.1)
    predicted = (test.double().numpy() @ weight.T + bias).argmax(1)
    score = ridge_probe(train, uneven, test, uneven, strengths=[0.1])
    assert score.accuracy == right(predicted, uneven)


def test_ridge_chooses_by_rows_that_it_was_not_fitted_on() -> None:
    train, labels, test, test_labels = clusters(spread=2.0)
    labeled = Labeled.checked(train, labels, test, test_labels)
    fit, held = labeled.holdout(0.25, 4)
    mean, deviation = train.mean(0), train.std(0, correction=0)
    x = ((train - mean) / deviation).double().numpy()
    rows = np.hstack([x[fit], np.ones((len(fit), 1))])
    penalty = 0.1 * len(fit) * np.diag([1.0] * 6 + [0.0])
    targets = np.eye(3)[labels[fit]]
    solution = np.linalg.solve(rows.T @ rows + penalty, rows.T @ targets)
    predicted = (x[held] @ solution[:-1] + solution[-1]).argmax(1)
    score = ridge_probe(
        train, labels, test, test_labels, strengths=(0.1, 10.0), holdout=0.25, seed=4
    )
    assert score.details["held_out"]["0.1"] == right(predicted, labels[held])


@pytest.mark.parametrize("probe", CHOOSERS)
def test_the_strength_that_is_best_on_held_out_images_is_chosen(probe: Probe) -> None:
    details = probe(*clusters(spread=2.0)).details
    best = max(details["held_out"].values())
    chosen = details["held_out"][f"{details['strength']:g}"]
    stronger = [a for s, a in details["held_out"].items() if float(s) > details["strength"]]
    assert chosen == best
    assert all(accuracy < best for accuracy in stronger)


def test_the_search_ends_when_two_weaker_strengths_have_done_worse() -> None:
    details = lbfgs_probe(*clusters(train=600, dim=40, spread=3.0), holdout=0.5).details
    accuracies = list(details["held_out"].values())
    assert len(accuracies) < 8  # the end came before the weakest strength
    weaker = accuracies[accuracies.index(max(accuracies)) + 1 :]
    assert [a < max(accuracies) for a in weaker].count(True) == 2
    assert weaker[-1] < max(accuracies)


@pytest.mark.parametrize("probe", CHOOSERS)
def test_a_single_strength_is_used_with_one_image_per_class(probe: Probe) -> None:
    train, train_labels, test, test_labels = clusters(train=3, dim=3, spread=0.1)
    score = probe(train, train_labels, test, test_labels, strengths=[0.1])
    assert score.details["held_out"] == {}
    assert score.accuracy == 100.0


def test_choosing_needs_two_images_of_a_class() -> None:
    with pytest.raises(DataError, match="give more images or a single strength"):
        lbfgs_probe(*clusters(train=3))


@pytest.mark.parametrize("strengths", [[], [0.0], [-1.0, 1.0], [float("nan")]])
def test_strengths_that_are_not_positive_are_refused(strengths: list[float]) -> None:
    with pytest.raises(UsageError, match="one or more positive numbers"):
        lbfgs_probe(*clusters(), strengths=strengths)


def test_holdout_takes_its_share_of_every_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 2 + [3])
    x = torch.zeros(len(labels), 1)
    fit, held = Labeled.checked(x, labels, x, labels).holdout(0.1, 0)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(53))
    assert labels[held].bincount(minlength=4).tolist() == [4, 1, 1, 0]


def test_holdout_differs_between_seeds() -> None:
    labeled = Labeled.checked(*clusters())
    assert labeled.holdout(0.1, 0)[1].tolist() != labeled.holdout(0.1, 1)[1].tolist()


def test_balanced_accuracy_weighs_classes_alike() -> None:
    x, labels = torch.zeros(4, 1), torch.tensor([0, 0, 0, 1])
    score = Score.of(
        torch.tensor([0, 0, 0, 0]), Labeled.checked(x, labels, x, labels), protocol="sgd"
    )
    assert (score.accuracy, score.balanced_accuracy) == (75.0, 50.0)


def test_a_class_without_test_images_has_no_accuracy() -> None:
    train, train_labels, test, test_labels = clusters(spread=0.1)
    some = test_labels != 1
    score = ridge_probe(train, train_labels, test[some], test_labels[some])
    assert score.per_class == [100.0, None, 100.0]
    assert score.balanced_accuracy == 100.0


def broken(what: str) -> Sets:
    train, train_labels, test, test_labels = clusters()
    if what == "nan":
        train[4, 2] = float("nan")
    elif what == "infinite":
        test[5, 1] = float("inf")
    elif what == "one class":
        train_labels = train_labels * 0 + 2
    elif what == "unseen":
        test_labels[7] = 11
    elif what == "unknown":
        test_labels[:2] = -1
    elif what == "short":
        train_labels = train_labels[:-1]
    elif what == "narrow":
        test = test[:, :4]
    elif what == "empty":
        test, test_labels = test[:0], test_labels[:0]
    return train, train_labels, test, test_labels


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", r"train: 1 of 120 embeddings hold NaN or infinity \(first in row 4\); use"),
        ("infinite", r"test: 1 of 60 embeddings hold NaN or infinity \(first in row 5\); use"),
        ("one class", r"all train labels are \[2\]; a score needs two classes"),
        ("unseen", r"test has class 11, which train does not; add train images"),
        ("unknown", r"test: 2 of 60 images have no label \(-1\); leave them out"),
        ("short", r"train: 120 embeddings but 119 labels; give one label for each row"),
        ("narrow", r"train embeddings have 6 features, test embeddings 4; embed both"),
        ("empty", r"test: no embeddings; give at least one image"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(what: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Labeled.checked(*broken(what))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("what", ["nan", "one class", "unseen", "unknown"])
def test_every_probe_checks_what_it_is_given(probe: Probe, what: str) -> None:
    with pytest.raises(DataError):
        probe(*broken(what))

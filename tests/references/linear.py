"""The probes in NumPy, float64: one image, one sum at a time."""

import math

import numpy as np
import torch

Array = np.ndarray


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def sgd_epochs(
    x: Array,
    y: Array,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    batch: int,
    epochs: int,
    seed: int,
) -> list[tuple[Array, Array]]:
    """Weight and bias after each epoch."""
    num_classes = y.max() + 1
    generator = torch.Generator().manual_seed(seed)
    parameters = np.zeros((num_classes, x.shape[1] + 1))
    velocity = np.zeros_like(parameters)
    after = []
    for epoch in range(epochs):
        rate = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.randperm(len(x), generator=generator).tolist()
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            gradient = weight_decay * parameters
            for i in rows:
                image = np.append(x[i], 1.0)
                error = softmax(parameters @ image) - np.eye(num_classes)[y[i]]
                gradient = gradient + np.outer(error, image) / len(rows)
            velocity = momentum * velocity + gradient
            parameters = parameters - rate * velocity
        after.append((parameters[:, :-1].copy(), parameters[:, -1].copy()))
    return after


def softmax_loss_gradient(
    weight: Array, bias: Array, x: Array, y: Array, strength: float
) -> tuple[float, Array, Array]:
    """mean cross-entropy + strength / 2 ||W||^2, and its gradients."""
    loss = strength / 2 * (weight**2).sum()
    weight_gradient, bias_gradient = strength * weight, np.zeros_like(bias)
    for image, label in zip(x, y, strict=True):
        probability = softmax(weight @ image + bias)
        loss -= math.log(probability[label]) / len(x)
        error = probability - np.eye(len(bias))[label]
        weight_gradient = weight_gradient + np.outer(error, image) / len(x)
        bias_gradient = bias_gradient + error / len(x)
    return loss, weight_gradient, bias_gradient


def ridge(x: Array, y: Array, strength: float) -> tuple[Array, Array]:
    """Minimizer of mean ||W s(h) + b - onehot||^2 + strength ||W||^2, s standardizes.

    Solved as plain least squares: sqrt(n strength) I stacked under the rows asks for W = 0, and
    no such row asks anything of b.
    """
    mean, deviation = x.mean(0), x.std(0)
    num_features = x.shape[1]
    rows = np.hstack([(x - mean) / deviation, np.ones((len(x), 1))])
    penalty = math.sqrt(len(x) * strength) * np.eye(num_features, num_features + 1)
    targets = np.vstack([np.eye(y.max() + 1)[y], np.zeros((num_features, y.max() + 1))])
    solution = np.linalg.lstsq(np.vstack([rows, penalty]), targets, rcond=None)[0].T
    weight = solution[:, :-1] / deviation
    return weight, solution[:, -1] - weight @ mean

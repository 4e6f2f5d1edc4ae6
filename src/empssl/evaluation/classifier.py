"""A linear classifier on embeddings: what every probe fits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.shapes import Embeddings


@dataclass(frozen=True)
class Classifier:
    """The class with the largest `weight @ embedding + bias`."""

    weight: Float[Tensor, "class feature"]
    bias: Float[Tensor, " class"]

    def logits(self, embeddings: Embeddings) -> Float[Tensor, "sample class"]:
        return torch.addmm(self.bias, embeddings, self.weight.T)

    def predict(self, embeddings: Embeddings) -> Int64[Tensor, " sample"]:
        return self.logits(embeddings).argmax(1)

    def after(self, scaling: "Standardization") -> "Classifier":
        """The same classifier for embeddings that have not been standardized."""
        weight = self.weight / scaling.deviation
        return Classifier(weight, self.bias - weight @ scaling.mean)


@dataclass(frozen=True)
class Standardization:
    """Mean 0 and variance 1 for each feature of the train set; a constant feature becomes 0."""

    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]

    @classmethod
    def of(cls, train: Embeddings) -> "Standardization":
        mean = train.mean(0)
        # Rounding leaves a constant feature a deviation near 1e-7 of its size: not a signal.
        deviation = train.std(0, correction=0)
        constant = deviation <= 1e-6 * mean.abs().clamp(min=torch.finfo(train.dtype).tiny)
        return cls(mean, deviation.masked_fill(constant, 1.0))

    def __call__(self, embeddings: Embeddings) -> Embeddings:
        return (embeddings - self.mean) / self.deviation

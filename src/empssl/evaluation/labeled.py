"""Embeddings to learn from and embeddings to be scored on, checked before anything is learned."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from empssl.errors import DataError, UsageError
from empssl.finite import check_finite

TrainEmbeddings = Float[Tensor, "train feature"]
TrainLabels = Int64[Tensor, " train"]
TestEmbeddings = Float[Tensor, "test feature"]
TestLabels = Int64[Tensor, " test"]


@dataclass(frozen=True)
class Labeled:
    """Labeled embeddings, ready for arithmetic: float32, one device, classes counted from zero.

    Attributes:
        train_classes: position of each label in `labels`.
        test_classes: position of each label in `labels`.
        labels: the labels of the training set, ascending.
    """

    train: TrainEmbeddings
    train_classes: TrainLabels
    test: TestEmbeddings
    test_classes: TestLabels
    labels: Int64[Tensor, " class"]

    @classmethod
    def checked(
        cls, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
    ) -> "Labeled":
        """The embeddings and classes, on the device of `train`.

        Raises:
            DataError: sizes that do not fit, values that are not finite, unknown labels, fewer
                than two classes to learn, or a test class that cannot be learned.
        """
        for part, embeddings, labels in (
            ("train", train, train_labels),
            ("test", test, test_labels),
        ):
            check_finite(embeddings, part)
            if len(embeddings) != len(labels):
                raise DataError(
                    f"{part}: {len(embeddings)} embeddings but {len(labels)} labels; "
                    "give one label for each row"
                )
            if unknown := int((labels < 0).sum()):
                raise DataError(
                    f"{part}: {unknown} of {len(labels)} images have no label (-1); "
                    "leave them out of the evaluation"
                )
        if train.shape[1] != test.shape[1]:
            raise DataError(
                f"train embeddings have {train.shape[1]} features, test embeddings "
                f"{test.shape[1]}; embed both with the same run and layer"
            )
        classes = train_labels.unique()
        if len(classes) < 2:
            raise DataError(
                f"all train labels are {classes.tolist()}; a score needs two classes or more"
            )
        unseen = sorted(set(test_labels.unique().tolist()) - set(classes.tolist()))
        if unseen:
            raise DataError(
                f"test has {'class' if len(unseen) == 1 else 'classes'} "
                f"{', '.join(map(str, unseen))}, which train does not; add train images of it "
                "or leave it out of test"
            )
        device = train.device
        return cls(
            train.detach().float(),
            torch.searchsorted(classes, train_labels).to(device),
            test.detach().to(device).float(),
            torch.searchsorted(classes, test_labels.to(classes.device)).to(device),
            classes,
        )

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def holdout(
        self, fraction: float, seed: int
    ) -> tuple[Int64[Tensor, " fit"], Int64[Tensor, " held"]]:
        """Train rows to fit on and train rows to choose by, in the same proportion of every class.

        Every class keeps at least one row to fit on, and gives at least one if it has two.

        Raises:
            UsageError: `fraction` is not between 0 and 1.
            DataError: no class has two images.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"holdout is {fraction}; give a fraction between 0 and 1")
        classes = self.train_classes.cpu()
        shuffled = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
        rows = shuffled[classes[shuffled].argsort(stable=True)]  # by class, random within it
        count = classes.bincount()
        place = torch.arange(len(rows)) - (count.cumsum(0) - count)[classes[rows]]
        quota = (count * fraction).round().long().clamp(min=1).minimum(count - 1)
        held = place < quota[classes[rows]]
        if not held.any():
            raise DataError(
                "no class has two train images, so no strength can be chosen on held-out ones; "
                "give more images or a single strength"
            )
        return rows[~held].to(self.train.device), rows[held].to(self.train.device)

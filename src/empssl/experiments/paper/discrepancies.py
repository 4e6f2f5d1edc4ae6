"""Where the paper's text and its authors' code differ, what is done here, and how to measure it.

Of the code all is from github.com/tsb0601/EMP-SSL at commit 8fc3758. Listed are the points that are
known, those among them on which the text is silent.
"""

from dataclasses import dataclass, replace
from typing import Any

from empssl.experiments.paper.base import Number, emp

BASE = emp("cifar10", 10, 50, reading="official")


@dataclass(frozen=True)
class Discrepancy:
    """One point in which a reader has to choose.

    Attributes:
        paper: what its text says.
        code: what its authors' code does.
        here: what is done here, and where that can be changed.
        numbers: the base with that one thing changed; what it is worth is the difference.
        unmeasured: why there is no number, where there is none.
    """

    what: str
    paper: str
    code: str
    here: str
    numbers: tuple[Number, ...] = ()
    unmeasured: str = ""


def changed(label: str, changes: str) -> tuple[Number, ...]:
    """A run of its own, with other settings of `train`."""
    return (Number(replace(BASE, changes=changes), "cifar10", label=label),)


def seen(label: str, **otherwise: Any) -> tuple[Number, ...]:
    """The same run, looked at in another way."""
    return (Number(BASE, "cifar10", label=label, **otherwise),)


DISCREPANCIES = (
    Discrepancy(
        "Projector",
        "512-4096-512; BatchNorm and ReLU are not mentioned",
        "512-4096-4096-1024 with BatchNorm and ReLU",
        "recipe `paper` the first, all others the second",
        changed("the paper's", "{projector: {name: paper}}"),
    ),
    Discrepancy(
        "Layer that is probed",
        "the backbone's output, 512 coordinates",
        "the projector's first block, 4,096 coordinates",
        "every score is given for both: `backbone` and `head`",
        seen("backbone", layer="backbone"),
    ),
    Discrepancy(
        "Optimizer",
        "LARS, eta 0.005, learning rate 0.3",
        "SGD in LARC with clipping: the learning rate caps the trust ratio",
        "`paper` the first, `official` the second; `laptop` and `fast` take Muon and LARS",
        changed("LARS without clipping", "{optimizer: {clip: false}}"),
    ),
    Discrepancy(
        "Patches at test",
        "128 patches",
        "128 patches with the augmentation of training, on train and test images",
        "a clean grid and its mirror images; `--crops random128` is theirs",
        seen("augmented patches", crops="random128"),
    ),
    Discrepancy(
        "Linear classifier",
        "SGD, 100 epochs, learning rate 0.03",
        "the same with momentum 0.9, decay 5e-5, batches of 100, cosine, raw features",
        "solved, its strength chosen on a part of train; `--probes linear_sgd` is theirs",
        seen("SGD", probe="linear_sgd"),
    ),
    Discrepancy(
        "Epoch of the classifier that counts",
        "not said",
        "prints the best on test, and the last",
        "the last, always",
        seen("SGD, best on test", what="best", probe="linear_sgd"),
    ),
    Discrepancy(
        "Length of the schedule in one epoch",
        "one epoch",
        "the README's command decays over two, trains both and keeps a network after each; its "
        "table does not say which of the two it is of",
        "as long as the run",
        (Number(replace(BASE, epochs=20), "cifar10", epoch=10, label="twice as long, half of it"),),
    ),
    Discrepancy(
        "Augmentation",
        "“identical to VICReg”, and a list that is not VICReg's",
        "the list: jitter 0.4, 0.4, 0.4, 0.2, blur 0.1, solarization 0.1",
        "the list",
        changed(
            "VICReg's, its two branches averaged",
            "{views: {saturation: 0.2, hue: 0.1, blur: 0.55}}",
        ),
    ),
    Discrepancy(
        "Normalization of pixels",
        "not said",
        "mean 0.5, deviation 0.5",
        "the same; `--views.mean`, `--views.std`",
        changed("about CIFAR-10's own", "{views: {mean: 0.473, std: 0.25}}"),
    ),
    Discrepancy(
        "Distortion",
        "eps² = 0.2",
        "an argument eps = 0.2 that is not squared: the same number",
        "`--objective.distortion` is eps²",
        changed("0.2 taken for eps", "{objective: {distortion: 0.04}}"),
    ),
    Discrepancy(
        "Size of a patch",
        "16 of 32 pixels, enlarged to 32",
        "a crop of a quarter of the area, ratio 1, enlarged to 32: the same on CIFAR",
        "`paper` and `official` enlarge, at 3.6 times the FLOP, and 3.1 times in these runs; "
        "`laptop` and `fast` do not",
        changed("enlarged", "{views: {side: 32}}"),
    ),
    Discrepancy(
        "Patches of ImageNet-100",
        "112 of 224 pixels, enlarged to 224",
        "a crop of a quarter of the area of the original image, ratio 3/4 to 4/3",
        "the paper's, of images scaled to one side",
        unmeasured="takes 224-pixel images",
    ),
    Discrepancy(
        "Interpolation for ImageNet-100",
        "not said",
        "bicubic; bilinear for CIFAR",
        "bilinear, antialiased where it shrinks",
        unmeasured="takes 224-pixel images",
    ),
    Discrepancy(
        "Tiny ImageNet",
        "32 of 64 pixels, enlarged to 64",
        "an architecture with the stem for ImageNet, and no such data set: it does not run",
        "the paper's patches, the stem for small images",
        unmeasured="there is nothing to compare with",
    ),
    Discrepancy(
        "Number of patches",
        "200, and 20 to compare",
        "100 unless given; the README's commands, and so its accuracies after one epoch, have 20",
        "`paper` and `official` 200; `--patches 20`",
        unmeasured="`figure6` has 2 to 16 of them",
    ),
    Discrepancy(
        "Accuracy on CIFAR-10 after one epoch",
        "85.1 %, 200 patches",
        "84.2 % in the README, above the command with 20 patches",
        "to be compared with the one or the other",
        unmeasured="takes a GPU",
    ),
    Discrepancy(
        "Momentum",
        "not said",
        "0.9, Nesterov's",
        "the same; `--optimizer.momentum`, `--optimizer.nesterov`",
        unmeasured="no run of its own yet",
    ),
    Discrepancy(
        "Biases and BatchNorm in LARS",
        "not said",
        "plain steps without decay",
        "the same",
        unmeasured="no option here",
    ),
    Discrepancy(
        "A weight whose gradient is zero",
        "not said",
        "stays",
        "decays, by a plain step",
        unmeasured="weights that train have none",
    ),
    Discrepancy(
        "Steps of the schedule",
        "not said",
        "after every update",
        "the same",
        unmeasured="no option here",
    ),
    Discrepancy(
        "Last batch of an epoch",
        "not said",
        "left out unless it is full",
        "the same",
        unmeasured="no option here; of CIFAR nothing is left out",
    ),
    Discrepancy(
        "Precision",
        "not said",
        "float32",
        "bfloat16 where the hardware multiplies it, else float32; `--precision`",
        unmeasured="no run of its own yet",
    ),
    Discrepancy(
        "Blur",
        "not said",
        "Pillow's, three boxes in place of a Gaussian",
        "a Gaussian",
        unmeasured="no option here",
    ),
    Discrepancy(
        "Sign in Algorithm 1",
        "minimizes +R + lambda D, where equation 2 maximizes it",
        "maximizes both",
        "maximizes both; a test sees that a flipped sign collapses",
        unmeasured="the other sign does not train",
    ),
    Discrepancy(
        "Similarity",
        "“cosine”, and a formula that sums products over the batch",
        "the mean cosine to the image's mean projection",
        "the mean cosine",
        unmeasured="no option here; with lambda 200 the sum would be a hundred times as strong",
    ),
    Discrepancy(
        "Pairs m in Algorithm 1",
        "“number of pairs to calculate invariance”",
        "not there",
        "not there",
        unmeasured="used nowhere in the paper either",
    ),
    Discrepancy(
        "Learning rate of ImageNet-100",
        "cosine to 0",
        "a name that never matches: reaches 0 at 39 % of training and rises again",
        "cosine to 0",
        unmeasured="takes 224-pixel images",
    ),
    Discrepancy(
        "BatchNorm over several GPUs",
        "not said",
        "each GPU its own patches of all images",
        "statistics of the whole batch, however many processes",
        unmeasured="takes several GPUs",
    ),
)

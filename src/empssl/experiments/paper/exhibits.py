"""The tables and figures of the paper, and four exhibits of what it leaves open."""

from collections.abc import Iterator
from dataclasses import replace

from empssl.experiments.paper.base import Claim, Exhibit, Experiment, Number, Reading, emp, rival
from empssl.experiments.paper.discrepancies import BASE, DISCREPANCIES
from empssl.experiments.paper.published import (
    CONVERGED,
    EARLY,
    EFFORT,
    EPOCHS,
    FEW,
    MANY,
    NAMES,
    ONE_EPOCH,
    OUR_EFFORT,
    OUR_TRANSFER,
    OURS,
    RIVALS,
    TEN_EPOCHS,
    TRANSFER,
)

__all__ = ["EXHIBITS", "NAMES"]

CIFARS = ("cifar10", "cifar100")
LONGEST = EPOCHS[-1]
SHORT = (20, LONGEST)
PROBED = 20_000  # images that the probes of `same-protocol` learn from
BORROWED = {
    "tiny-imagenet": "from other papers, by way of the paper",
    "imagenet100": "from solo-learn, by way of the paper",
}
IN_A_PICTURE = (
    "The curves are in a picture only. Beside ours stand the numbers that Table 2 has of the same "
    "runs, after 1, 10 and 30 epochs; the paper's text adds that 90 % and 65 % take at most 5 "
    "epochs with 200 patches and 8 with 20, and that 15 epochs end near 93 % and 72 %."
)
NUMBERS_OF_PATCHES = tuple(emp("cifar10", LONGEST, n) for n in (2, FEW, 50, MANY))
BATCHES = tuple(emp("cifar10", LONGEST, batch=b) for b in (50, 100, 200))


def converged(data: str) -> Iterator[Number]:
    """The rivals' last column, which four tables share."""
    for method in RIVALS:
        theirs = CONVERGED[method].get(data)
        yield Number(rival(method, data), data, theirs=theirs, source=BORROWED.get(data, ""))


def table_1() -> Iterator[Number]:
    for data, theirs in ONE_EPOCH.items():
        yield from converged(data)
        yield Number(emp(data, 1), data, theirs=theirs)


def table_2() -> Iterator[Number]:
    for data in CIFARS:
        for last in converged(data):
            for epoch, theirs in zip(EPOCHS, EARLY[data][last.experiment.method], strict=True):
                yield last.at(epoch, theirs)
            yield last
        for n in (FEW, MANY):
            for epoch, theirs in zip(EPOCHS, OURS[data][n], strict=True):
                yield Number(emp(data, LONGEST, n), data, epoch=epoch, theirs=theirs)


def table_3() -> Iterator[Number]:
    for data in CIFARS:
        rows = [(rival(method, data), EFFORT[data][method]) for method in RIVALS]
        rows += [(emp(data, LONGEST, n), OUR_EFFORT[data][n]) for n in (FEW, MANY)]
        for experiment, (minutes, epochs) in rows:
            yield Number(experiment, data, "minutes", theirs=minutes)
            yield Number(experiment, data, "epochs", theirs=epochs)


def table_4() -> Iterator[Number]:
    for data, theirs in TEN_EPOCHS.items():
        yield from converged(data)
        yield Number(emp(data, 10), data, theirs=theirs)


def transfer(data: str) -> Iterator[Number]:
    """Tables 5 and 6: the data set itself, then the other."""
    (other,) = (name for name in CIFARS if name != data)
    for last in converged(data):
        yield last
        yield Number(last.experiment, other, theirs=TRANSFER[data][last.experiment.method])
    for n in (FEW, MANY):
        yield Number(emp(data, LONGEST, n), data, theirs=OURS[data][n][-1])
        yield Number(emp(data, LONGEST, n), other, theirs=OUR_TRANSFER[data][n])


def convergence(data: str) -> Iterator[Number]:
    """Figures 3 and 4."""
    for n in (FEW, MANY):
        yield Number(emp(data, LONGEST, n), data, "curve", theirs=OURS[data][n][-1])


def maps(methods: tuple[str, ...]) -> Iterator[Number]:
    """Figures 5 and 8: EMP-SSL after 10 of its 30 epochs, the others at their end."""
    yield Number(emp("cifar10", LONGEST), "cifar10", "map", epoch=10)
    for method in methods:
        yield Number(rival(method, "cifar10"), "cifar10", "map")


def ablation(experiments: tuple[Experiment, ...]) -> tuple[Number, ...]:
    """Figures 6 and 7."""
    return tuple(Number(experiment, "cifar10", "curve") for experiment in experiments)


def readings() -> Iterator[Number]:
    """Four probes of both readings of the method, at the end of one schedule."""
    both: tuple[Reading, ...] = ("paper", "official")
    for reading in both:
        run = emp("cifar10", 1, reading=reading)
        name = f"EMP-SSL, `{reading}`"
        theirs = 84.2 if reading == "official" else ONE_EPOCH["cifar10"]
        # Theirs are of 20 patches, and of the first of two epochs of one schedule.
        source = "the authors' README, 20 patches" if reading == "official" else ""
        noisy = Number(run, "cifar10", probe="linear_sgd", crops="random128", layer="head",
                       theirs=theirs, source=source, label=f"{name}: the authors' probe, augmented "
                       "patches, head, last epoch")  # fmt: skip
        yield noisy
        yield Number(run, "cifar10", "best", probe="linear_sgd", crops="random128", layer="head",
                     label=f"{name}: the same, best epoch, chosen on test: no score")  # fmt: skip
        yield Number(run, "cifar10", label=f"{name}: solved, clean grid, head")
        yield Number(
            run, "cifar10", layer="backbone", label=f"{name}: solved, clean grid, backbone"
        )
        yield Number(run, "cifar10", probe="knn", label=f"{name}: k-NN, clean grid, head")


def schedules(data: str) -> Iterator[Number]:
    """EMP-SSL beside rivals that are at the end of their schedule, too."""
    for n in (FEW, MANY):
        yield Number(emp(data, LONGEST, n), data, "curve", theirs=OURS[data][n][-1])
    for method in RIVALS:
        for epochs in SHORT:
            yield Number(rival(method, data, epochs), data)


def same_protocol(data: str) -> Iterator[Number]:
    """EMP-SSL and rivals, both through both crops; each method's own crops beside the paper's."""
    for n in (FEW, MANY):
        run = emp(data, LONGEST, n)
        yield Number(run, data, crops="bag", theirs=OURS[data][n][-1], train_size=PROBED)
        yield Number(run, data, crops="whole", train_size=PROBED)
    for method in RIVALS:
        theirs = {LONGEST: EARLY[data][method][-1], None: CONVERGED[method].get(data)}
        for epoch, value in theirs.items():
            run = rival(method, data)
            yield Number(run, data, epoch=epoch, crops="whole", theirs=value, train_size=PROBED)
            yield Number(run, data, epoch=epoch, crops="bag", train_size=PROBED)


def ahead_of_rivals(on: str, data: str = "", epochs: tuple[int | None, ...] = (None,)) -> Claim:
    """EMP-SSL with either n against every rival, trained on `data` for so many epochs."""
    data = data or on
    what = "transfers better" if on != data else "is ahead of two-view methods"
    ours = tuple(emp(data, LONGEST, n) for n in (FEW, MANY))
    rivals = tuple(rival(method, data, each) for method in RIVALS for each in epochs)
    return Claim(f"EMP-SSL {what}, on {on}", on, ours, rivals)


def more_patches(data: str) -> Claim:
    return Claim(
        f"More patches converge in fewer epochs, on {data}", data,
        (emp(data, LONGEST, MANY),), (emp(data, LONGEST, FEW),),
    )  # fmt: skip


EXHIBITS = {
    "table1": Exhibit(
        "EMP-SSL after one epoch beside converged methods",
        "One epoch comes close to methods that have converged.",
        tuple(table_1()),
    ),
    "table2": Exhibit(
        "CIFAR-10 and CIFAR-100 after 1, 10, 30 and 1,000 epochs",
        "EMP-SSL needs a hundredth of the epochs.",
        tuple(table_2()), tuple(ahead_of_rivals(data) for data in CIFARS),
    ),
    "table3": Exhibit(
        "Minutes and epochs to 90 % on CIFAR-10 and 65 % on CIFAR-100",
        "Fewer epochs, and with 20 patches less time.",
        tuple(table_3()),
    ),
    "table4": Exhibit(
        "Tiny ImageNet and ImageNet-100 after ten epochs",
        "Ten epochs reach the range of converged methods.",
        tuple(table_4()),
    ),
    "table5": Exhibit(
        "Transfer from CIFAR-10 to CIFAR-100",
        "EMP-SSL transfers better.",
        tuple(transfer("cifar10")), (ahead_of_rivals("cifar100", "cifar10"),),
    ),
    "table6": Exhibit(
        "Transfer from CIFAR-100 to CIFAR-10",
        "EMP-SSL transfers better.",
        tuple(transfer("cifar100")), (ahead_of_rivals("cifar10", "cifar100"),),
    ),
    "figure3": Exhibit(
        "Convergence on CIFAR-10, three seeds, shaded by a standard deviation",
        "90 % within 8 epochs, converged after 15.",
        tuple(convergence("cifar10")), (more_patches("cifar10"),), "convergence", 3, IN_A_PICTURE,
    ),
    "figure4": Exhibit(
        "Convergence on CIFAR-100, three seeds, shaded by a standard deviation",
        "65 % within 8 epochs, converged after 15.",
        tuple(convergence("cifar100")), (more_patches("cifar100"),), "convergence", 3, IN_A_PICTURE,
    ),
    "figure5": Exhibit(
        "t-SNE of projections of CIFAR-10: EMP-SSL, BYOL, VICReg and SwAV",
        "EMP-SSL's classes lie further apart and have structure within.",
        tuple(maps(("byol", "vicreg", "swav"))), plot="maps",
        unread="Pictures only. Their parameters of t-SNE are not given.",
    ),
    "figure6": Exhibit(
        "The number of patches",
        "Accuracy rises sharply with the number of patches.",
        ablation(NUMBERS_OF_PATCHES),
        (Claim("More patches converge in fewer epochs, on cifar10", "cifar10",
               NUMBERS_OF_PATCHES[1:], NUMBERS_OF_PATCHES[:1]),),
        "convergence",
        unread="Curves in a picture only, and the text does not say which n they are of: 2, 20, 50 "
        "and 200 are our choice.",
    ),
    "figure7": Exhibit(
        "The batch: 50, 100 and 200 images",
        "The batch has little influence on convergence.",
        ablation(BATCHES),
        (Claim("The batch matters little, on cifar10", "cifar10", BATCHES[:1] + BATCHES[2:],
               BATCHES[1:2], alike=2.0),),
        "convergence",
        unread="Curves in a picture only.",
    ),
    "figure8": Exhibit(
        "t-SNE of projections of CIFAR-10: EMP-SSL beside each rival",
        "EMP-SSL's representation is highly structured after ten epochs.",
        tuple(maps(("byol", "vicreg", "swav", "simclr", "ressl"))), plot="maps",
        unread="Pictures only. Their parameters of t-SNE are not given.",
    ),
    "same-protocol": Exhibit(
        "EMP-SSL and two-view methods on CIFAR-10 by one protocol: same layer, same crops, same "
        "probe",
        "EMP-SSL needs a hundredth of the epochs.",
        tuple(same_protocol("cifar10")),
        (replace(ahead_of_rivals("cifar10"), words="At equal epochs EMP-SSL is ahead of two-view "
                 "methods, on cifar10", equal=("epochs",), train_size=PROBED),
         Claim("At equal compute EMP-SSL is ahead of two-view methods, on cifar10", "cifar10",
               (emp("cifar10", LONGEST, MANY),), ahead_of_rivals("cifar10").behind,
               equal=("compute",), train_size=PROBED)),
        seeds=3,
        unread="Its tables read EMP-SSL's head over a bag of patches and a rival's backbone over "
        "the whole image.",
        note=f"Every probe learns from {PROBED:,} training images, drawn evenly from the classes, "
        "and is scored on all test images: accuracies are lower than from all images, of every row "
        "alike.",
    ),
    "schedules": Exhibit(
        "Rivals whose schedule ends where they are compared",
        "EMP-SSL needs a hundredth of the epochs.",
        tuple(number for data in CIFARS for number in schedules(data)),
        tuple(ahead_of_rivals(data, epochs=SHORT) for data in CIFARS), seeds=3,
        unread="Its Table 2 has rivals after 1 to 30 of 1,000 epochs, where the learning rate of a "
        "schedule of that length is still high. Here their schedule has ended.",
    ),
    "readings": Exhibit(
        "Both readings of EMP-SSL under four probes, last epoch",
        "The paper's text and its authors' code differ; which probe is used moves every number.",
        tuple(readings()), baselines=False,
    ),
    "fidelity": Exhibit(
        "What each difference between the paper and its authors' code is worth",
        "One change at a time of a short run of the official reading.",
        (Number(BASE, "cifar10", label="none: the official reading"),
         *(number for found in DISCREPANCIES for number in found.numbers)),
        seeds=3, baselines=False,
    ),
}  # fmt: skip

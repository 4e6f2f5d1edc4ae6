"""A ground: what scores must share to stand side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from empssl.models import Layer
from empssl.reporting.numerals import numeral

OWN, RANDOM, WHITENED = "this run", "random weights", "whitened patches"


@dataclass
class Ground:
    """Evaluations on one data set under one protocol, together.

    Attributes:
        dataset: its name.
        data: the same as `evaluate` was given it.
        apart: what sets the protocol apart from the others on this data set; empty if there is
            no other.
        said: the protocol, in a sentence.
        transfer: what the encoder was trained on, where that is other data; empty if it is not.
        results, few_shot, curves: the rows of the weights that the run has now and of what needs no
            training, as the run directory holds them, with an `encoder` each.
    """

    dataset: str
    data: str
    apart: str
    said: str
    transfer: str
    results: list[dict[str, Any]] = field(default_factory=list)
    few_shot: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)


def grounds(evaluations: Sequence[dict[str, Any]], identity: str | None) -> list[Ground]:
    """The evaluations of a run, the data that it was trained on first.

    Args:
        evaluations: as the run directory holds them.
        identity: of the weights that it holds now, others are left out; None if that is not known.
    """
    groups: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for evaluation in evaluations:
        key = {"dataset": Path(evaluation["dataset"]).name} | plain(evaluation["protocol"])
        groups.setdefault(str(key), (key, []))[1].append(evaluation)
    keys = [key for key, _ in groups.values()]
    found = [
        _ground(
            key, group, apart(key, [k for k in keys if k["dataset"] == key["dataset"]]), identity
        )
        for key, group in groups.values()
    ]
    return sorted(found, key=lambda ground: bool(ground.transfer))


def _ground(
    key: dict[str, Any], group: Sequence[dict[str, Any]], apart: str, identity: str | None
) -> Ground:
    protocol = group[0]["protocol"]
    ground = Ground(key["dataset"], group[0]["dataset"], apart, said(group[0]), transfer(protocol))
    for evaluation in group:
        own = {result["model"] for result in evaluation["results"]}
        parts = (
            (ground.results, [*evaluation["results"], *evaluation.get("baselines", [])]),
            (ground.few_shot, evaluation.get("few_shot", [])),
            (ground.curves, evaluation.get("curves", [])),
        )
        for kept, rows in parts:
            for row in rows:
                if row["model"] not in own:
                    kept.append(row | {"encoder": baseline(row["model"])})
                elif identity is None or row["model"] == identity:
                    kept.append(row | {"encoder": OWN})
    return ground


def said(evaluation: dict[str, Any]) -> str:
    """How it was measured, in a sentence."""
    protocol, results = evaluation["protocol"], evaluation["results"]
    sizes = {row.get("train_size"): row.get("test_size") for row in results}
    epoch = protocol.get("epoch", "last")
    parts = [
        "frozen encoder" if protocol.get("frozen") else "",
        f"{protocol['mode']} mode" if "mode" in protocol else "",
        f"weights of {'the last epoch' if epoch == 'last' else f'epoch {epoch}'}",
        f"images of {protocol['image_side']} pixels" if "image_side" in protocol else "",
        *(f"{numeral(n)} train and {numeral(m)} test images" for n, m in sizes.items() if n and m),
        f"seed {protocol['seed']}" if "seed" in protocol else "",
    ]
    text = ", ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def transfer(protocol: dict[str, Any]) -> str:
    """What the encoder was trained on, where that is other data."""
    return Path(protocol.get("trained_on", "other data")).name if protocol.get("transfer") else ""


def plain(protocol: dict[str, Any]) -> dict[str, Any]:
    """What of a protocol is a word or a number."""
    return {k: v for k, v in protocol.items() if isinstance(v, str | int | float)}


def apart(key: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    """The entries in which a protocol differs from the others of its data set."""
    keys = [name for name in key if any(o.get(name) != key[name] for o in others)]
    shown = [name for name in keys if not name.endswith("fingerprint")] or keys
    return ", ".join(f"{name.replace('_', ' ')} {key[name]}" for name in shown)


def baseline(model: str) -> str:
    """What needs no training, in words."""
    if model.startswith("random-"):
        return RANDOM
    return WHITENED if model == "whitened-patches" else model


def depth(layer: str) -> int:
    """Layers from the input to the output."""
    known = get_args(Layer)
    return known.index(layer) if layer in known else len(known)

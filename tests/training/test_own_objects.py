"""What a program gives `train` itself: its own objective, backbone and optimizer."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import SETTINGS, command, differences, few_digits, metrics, train_tiny, weights
from torch import Tensor, nn

from empssl import cli
from empssl.config import ObjectSpec
from empssl.data import MemoryImages, open_images
from empssl.errors import CheckpointError, UsageError
from empssl.evaluation.embed import embed
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.evaluate import evaluate
from empssl.evaluation.examine import examine
from empssl.models import build_network
from empssl.models.resnet import resnet10
from empssl.models.segments import Segment
from empssl.objectives import EMP, Loss, Objective
from empssl.reports.run_report import report
from empssl.runs import checkpoint
from empssl.runs.run import Run
from empssl.training.settings import with_objects

SMALL = {key: value for key, value in SETTINGS.items() if key != "backbone"}


class Pull(nn.Module):
    """Views near their mean, and the mean of a batch near 0; a weight of its own."""

    def __init__(self, strength: float = 2.0, *, sides: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        self.strength, self.sides = strength, sides
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, projections: Tensor) -> Tensor:
        apart = (projections - projections.mean(0)).square().mean()
        return self.scale * apart + self.strength * projections.mean((0, 1)).square().mean()


class Termed(Objective):
    def __init__(self, *, term: str = "variance") -> None:
        super().__init__()
        self.term = term

    def forward(self, projections: Tensor) -> Loss:  # type: ignore[override]
        variance = nn.functional.normalize(projections, dim=-1).var(1).mean()
        return Loss(-variance, {self.term: variance})


class Maps(nn.Module):
    """A convolutional backbone without a mean at its end."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.net(images)
        return made


class InSegments(Maps):
    def segments(self) -> list[Segment]:
        first, norm, relu, last = self.net
        return [
            Segment((None,), lambda x: (first(x),)),
            Segment((norm,), lambda x: (last(relu(x)),)),
        ]


def made(kind: Any, *args: Any, seed: int = 0, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(*args, **options)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def config(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())


# An objective


def test_a_module_from_projections_to_a_loss_is_an_objective(tmp_path: Path) -> None:
    loss = Pull(3.0)
    run = train_tiny(tmp_path / "run", objective=loss)
    assert config(run)["objective"] == {
        "name": f"object:{__name__}.Pull", "strength": 3.0, "sides": [1, 2],
    }  # fmt: skip
    assert float(loss.scale.detach()) != 1  # it is trained itself
    saved = checkpoint.read(max((run / "checkpoints").glob("step-*"))).tensors["objective"]
    assert torch.equal(saved["module.scale"], loss.scale.detach())
    assert Encoder.from_pretrained(run).encode(torch.zeros(16, 16)).shape == (1, 16)


def test_an_objective_that_is_given_reports_its_terms(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", objective=Termed())
    for line in metrics(run):
        assert line["loss"] == pytest.approx(-line["variance"], rel=1e-4)
    assert config(run)["objective"] == {"name": f"object:{__name__}.Termed", "term": "variance"}


@pytest.mark.parametrize("term", ["alignment", "lr"])
def test_a_term_does_not_take_the_name_of_another_number(term: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"term '{term}', and a step is recorded"):
        train_tiny(tmp_path / "run", objective=Termed(term=term))


def test_an_objective_of_the_table_trains_the_same_as_an_object(tmp_path: Path) -> None:
    by_name = train_tiny(tmp_path / "name", objective={"name": "emp", "invariance_weight": 7.0})
    given = train_tiny(tmp_path / "object", objective=EMP(invariance_weight=7.0))
    assert differences(by_name, given) == []
    assert config(given)["objective"] == {
        "name": "object:empssl.objectives.emp.EMP", "invariance_weight": 7.0, "distortion": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda z: z.square().mean((0, 2)), r"gives a tensor \(8,\), expected a tensor \(\)"),
        (lambda z: {"loss": z.mean()}, "gives {'loss': .*expected a tensor"),
        (lambda z: z.detach().mean(), "no gradient flows through"),
    ],
)
def test_a_module_that_gives_no_loss_is_refused(forward: Any, said: str, tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, projections: Tensor) -> Any:
            return forward(projections)

    with pytest.raises(UsageError, match=said):
        train_tiny(tmp_path / "run", objective=Wrong())
    assert not (tmp_path / "run").exists()


def test_a_loss_that_needs_numbers_is_counted_on_the_cpu(tmp_path: Path) -> None:
    class Numbers(nn.Module):
        def forward(self, projections: Tensor) -> Tensor:
            rows = nn.functional.normalize(projections.flatten(0, 1))
            gram = rows @ rows.T + torch.eye(len(rows))
            return gram.square().mean() * (1 if float(gram.detach().max()) > 0 else 2)

    state = torch.random.get_rng_state()
    run = train_tiny(tmp_path / "run", objective=Numbers())
    assert Run(run).plan["gflop_per_patch"] > 0
    assert torch.equal(torch.random.get_rng_state(), state)


# A backbone


def test_a_backbone_that_makes_maps_is_pooled(tmp_path: Path) -> None:
    own = made(Maps)
    run = train_tiny(tmp_path / "run", backbone=own)
    assert config(run)["backbone"] == {"name": f"object:{__name__}.Maps", "width": 6}
    encoder = Encoder.from_pretrained(run, backbone=Maps())
    layers = encoder.network.every_layer
    assert layers == ("backbone", "head", "projection")
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    for layer, width in zip(layers, (12, 16, 8), strict=True):
        assert encoder.encode(images, layer=layer).shape == (3, width)
    for name, tensor in own.state_dict().items():
        assert torch.equal(weights(run)[f"backbone.module.{name}"], tensor)


def test_weights_that_are_given_are_where_training_begins(tmp_path: Path) -> None:
    own = made(Maps, seed=5)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    still = partial(torch.optim.SGD, lr=0.0)
    run = train_tiny(tmp_path / "run", backbone=own, optimizer=still, seed=1)
    for name, _ in own.named_parameters():
        assert torch.equal(weights(run)[f"backbone.module.{name}"], before[name])


def test_the_rest_of_a_network_is_drawn_by_the_seed(tmp_path: Path) -> None:
    still = partial(torch.optim.SGD, lr=0.0)
    heads = [
        weights(train_tiny(tmp_path / str(n), backbone=made(Maps, seed=n), optimizer=still,
                           seed=seed))["projector.block.0.weight"]
        for n, seed in enumerate((1, 1, 2))
    ]  # fmt: skip
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_looking_for_the_feature_size_changes_nothing() -> None:
    own = made(Maps)
    own.net[2].eval()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    network = build_network(ObjectSpec(own), {"name": "paper", "hidden": 16, "dim": 8}, side=16)
    assert network.width("backbone") == 12
    assert [m.training for m in own.net] == [True, True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())


def test_exact_memory_needs_segments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be cut at its norms"):
        train_tiny(tmp_path / "run", backbone=made(Maps), memory="exact")
    whole = train_tiny(tmp_path / "whole", backbone=made(InSegments), memory="whole")
    exact = train_tiny(tmp_path / "exact", backbone=made(InSegments), memory="exact")
    for one, other in zip(metrics(whole), metrics(exact), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_momentum_target_follows_a_backbone_that_is_given(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "run", backbone=made(Maps), objective={"name": "byol", "hidden": 16}
    )
    assert Run(run).has_checkpoints


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (nn.Linear(4, 4), r"Linear cannot take images of \(2, 3, \d+, \d+\)"),
        (nn.Flatten(0), r"Flatten makes \(\d+,\) of"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    backbone: nn.Module, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        train_tiny(tmp_path / "run", backbone=backbone)
    assert not (tmp_path / "run").exists()


# An optimizer


def test_the_schedule_scales_the_rate_of_an_optimizer_that_is_given(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", optimizer=partial(torch.optim.AdamW, lr=0.004),
                     schedule={"name": "linear", "warmup": 0.0})  # fmt: skip
    assert [line["lr"] for line in metrics(run)] == pytest.approx([0.004, 0.003, 0.002, 0.001])
    assert config(run)["optimizer"] == {"name": "object:torch.optim.adamw.AdamW", "lr": 0.004}


def test_sgd_of_the_table_is_that_of_torch(tmp_path: Path) -> None:
    options = {"lr": 0.05, "momentum": 0.9}
    by_name = train_tiny(
        tmp_path / "name", optimizer={"name": "sgd", "weight_decay": 0.0} | options
    )
    given = train_tiny(tmp_path / "object", optimizer=sgd)
    assert metrics(by_name) == metrics(given)
    assert config(given)["optimizer"] == {"name": f"object:{__name__}.sgd"}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("optimizer", lambda parameters: None, "gives NoneType when called.*Optimizer"),
        ("optimizer", lambda: None, "cannot be made of the network's parameters"),
    ],
)
def test_a_function_that_makes_no_optimizer_is_refused(
    setting: str, value: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        train_tiny(tmp_path / "run", **{setting: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("objective", Pull, r"is <class .*Pull.*make one, as by Pull\(\)"),
        ("objective", 3, "objective is 3, expected a name.*Objective"),
        ("backbone", torch.zeros(3), "backbone is tensor.*expected a name.*nn.Module"),
        ("optimizer", torch.optim.SGD([nn.Parameter(torch.ones(1))]), "give the class, or a"),
    ],
)
def test_what_a_setting_does_not_take_is_refused(setting: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        with_objects({setting: value})


# Going on, and opening


def test_a_run_goes_on_with_the_same_object(tmp_path: Path) -> None:
    objects: dict[str, Any] = {"optimizer": sgd}
    whole = train_tiny(
        tmp_path / "whole", backbone=made(Maps), objective=Pull(), **objects, steps=4
    )
    cut = train_tiny(tmp_path / "cut", backbone=made(Maps), objective=Pull(), **objects, steps=4)
    for folder in sorted((cut / "checkpoints").glob("step-*"))[1:]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = {"data": "digits", "resume": True, **objects}
    train_tiny(cut, backbone=made(Maps, seed=9), objective=Pull(), **{
        k: v for k, v in again.items() if k != "data"})  # fmt: skip
    assert differences(whole, cut) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"of a Python program as its objective, \S+Pull\(strength=2.0, .*objective="),
        ({"objective": Pull(1.0)}, r"the one given is recorded as .*'strength': 1.0"),
        ({"objective": Termed()}, r"the one given is recorded as .*Termed"),
        ({"objective": "emp"}, r"give the same again from Python, as objective="),
    ],
)
def test_a_run_does_not_go_on_without_its_object(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", objective=Pull())
    with pytest.raises(UsageError, match=said):
        train_tiny(run, resume=True, **given)


def test_a_backbone_is_needed_to_open_its_run(tmp_path: Path, tiny_run: Path) -> None:
    run = train_tiny(tmp_path / "run", backbone=made(Maps))
    with pytest.raises(
        UsageError, match=r"of a Python program as its backbone, \S+Maps\(width=6\).*backbone="
    ):
        Encoder.from_pretrained(run)
    with pytest.raises(CheckpointError, match="backbone"):
        Encoder.from_pretrained(run, backbone=Maps(5))
    with pytest.raises(UsageError, match="'resnet10', which is made by its name"):
        Encoder.from_pretrained(tiny_run, backbone=Maps())


def test_nothing_is_imported_by_the_name_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "imported_by_name.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    run = train_tiny(tmp_path / "run", objective=Pull(), backbone=made(Maps))
    for file in (run / "config.yaml", run / "model" / "state.json"):
        if file.exists():
            file.write_text(file.read_text().replace(__name__, "imported_by_name"))
    assert cli.main([*command(run), "--resume"]) == 2
    assert cli.main(["train", "digits", "--out", str(tmp_path / "b"), "--config",
                     str(run / "config.yaml")]) == 2  # fmt: skip
    assert cli.main([*command(tmp_path / "c"), "--objective", "torch.nn.Identity"]) == 2
    assert cli.main([*command(tmp_path / "d"), "--objective",
                     json.dumps({"class_path": "imported_by_name.Pull"})]) == 2  # fmt: skip
    assert "imported_by_name" not in sys.modules
    assert "imported" not in capsys.readouterr().out


def test_a_pretrained_network_is_a_backbone(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", backbone=made(resnet10, width=4))
    recorded = config(run)["backbone"]
    assert recorded["name"] == "object:empssl.models.resnet.ResNet"
    assert recorded["stem"] if "stem" in recorded else recorded["repr"].startswith("ResNet(")


# What is done with a run of a backbone that was given


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with few_digits(60, 20):
        out = tmp_path_factory.mktemp("mapped") / "run"
        return train_tiny(out, backbone=made(Maps), whitened=8)


@pytest.fixture
def few() -> Iterator[None]:
    with few_digits(60, 20):
        yield


QUICK: dict[str, Any] = {"probes": ["ridge"], "layers": ["backbone"], "crops": ["whole"]}


def test_a_run_is_used_with_a_module_made_as_its_backbone(
    mapped: Path, few: None, tmp_path: Path
) -> None:
    given = made(Maps, seed=3)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    file = embed(mapped, "digits", out=tmp_path / "a.npy", layer="backbone", split="test",
                 backbone=given)  # fmt: skip
    encoder = Encoder.from_pretrained(mapped, backbone=made(Maps))
    digits = open_images("digits", split="test")
    assert isinstance(digits, MemoryImages)
    expected = encoder.encode(digits.pixels, layer="backbone").numpy()
    assert np.array_equal(np.load(file), expected)

    found = evaluate(mapped, "digits", backbone=given, **QUICK)
    assert found.results[0].model == encoder.identity
    assert [row.model for row in found.baselines] == ["random-0", "whitened-patches"]
    quality = examine(mapped, images=8, views=2, layers=["backbone"], backbone=given)
    assert all(reading.random is not None for reading in quality.readings)
    page = report(mapped, images=8, backbone=given).read_text()
    assert '<meta name="shows" content="images weights">' in page
    for name, tensor in given.state_dict().items():  # a copy was used
        assert torch.equal(before[name], tensor)
    assert given.training
    assert all(parameter.requires_grad for parameter in given.parameters())


@pytest.mark.parametrize("verb", [embed, evaluate, examine, report])
def test_a_verb_asks_for_the_backbone_of_a_run(
    verb: Callable[..., Any], mapped: Path, few: None, tmp_path: Path
) -> None:
    data = {"data": "digits"} if verb in (embed, evaluate) else {}
    out = {"out": tmp_path / "a.npy"} if verb is embed else {}
    with pytest.raises(UsageError, match=r"Maps\(width=6\).*from Python, as backbone=$"):
        verb(mapped, **data, **out)
    assert "backbone" in signature(verb).parameters


def test_random_weights_are_drawn_by_the_seed_and_not_those_given(mapped: Path) -> None:
    given = made(Maps, seed=3)
    one, same, other = (
        Encoder.random(mapped, backbone=module, seed=seed).network.state_dict()
        for module, seed in ((given, 1), (made(Maps, seed=8), 1), (given, 2))
    )
    assert all(torch.equal(one[name], tensor) for name, tensor in same.items())
    for name, parameter in given.named_parameters():
        drawn = one[f"backbone.module.{name}"]
        assert torch.equal(drawn, parameter) == ("net.1" in name), name  # of BatchNorm, 1 and 0
        assert "net.1" in name or not torch.equal(drawn, other[f"backbone.module.{name}"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert torch.equal(one["backbone.module.net.0.weight"], Maps().net[0].weight)


class Shifted(Maps):
    """With a parameter that nothing says how to draw."""

    def __init__(self, width: int = 6) -> None:
        super().__init__(width)
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.shift


class Drawn(Shifted):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.shift)


def test_a_backbone_that_cannot_be_drawn_anew_has_no_random_baseline(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_tiny(tmp_path / "run", backbone=made(Shifted), whitened=8)
    found = evaluate(run, "digits", backbone=Shifted(), **QUICK)
    assert [row.model for row in found.baselines] == ["whitened-patches"]
    said = "no baseline with random weights: the backbone Shifted cannot be drawn anew.*: itself;"
    assert re.search(said, capsys.readouterr().err)
    quality = examine(run, images=8, views=2, layers=["backbone"], backbone=Shifted())
    assert {reading.random for reading in quality.readings} == {None}
    with pytest.raises(UsageError, match="Shifted cannot be drawn anew"):
        Encoder.random(run, backbone=Shifted())
    network = Encoder.random(run, backbone=Drawn()).network
    assert network.get_parameter("backbone.module.shift") == 0


def test_the_weights_that_were_given_are_not_kept_as_epoch_0(mapped: Path, few: None) -> None:
    with pytest.raises(UsageError, match="came with the backbone that was given"):
        evaluate(mapped, "digits", epoch=0.0, backbone=Maps())


def test_a_backbone_is_no_option_of_the_verbs_that_read_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for verb in (embed, evaluate, examine, report):
        with pytest.raises(SystemExit):
            cli.parse(verb.__name__, verb, ["--help"])
        assert "--backbone" not in capsys.readouterr().out
        with pytest.raises(UsageError, match="no option '--backbone'"):
            cli.parse(verb.__name__, verb, ["run", "--backbone", "resnet10"])

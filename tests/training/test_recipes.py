from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from references import solo_learn
from torch import nn

from empssl.config import build, complete
from empssl.data import NAMES as DATA_SETS
from empssl.errors import UsageError
from empssl.models import build_network
from empssl.objectives import OBJECTIVES, build_objective
from empssl.objectives.vicreg import VICReg
from empssl.optim import SCHEDULES, build_optimizers
from empssl.training.recipes import DEFAULT, FORMS, GIVEN, NAMES, load, resolve
from empssl.training.recipes.rivals import DIFFERS, EVERYWHERE, differences
from empssl.views import POLICIES

# Tong et al., 2023, section 4, and their code where it says more.
PUBLISHED: dict[str, dict[str, Any]] = {
    "objective": {"invariance_weight": 200.0, "distortion": 0.2},
    "optimizer": {"lr": 0.3, "eta": 0.005, "weight_decay": 1e-4, "momentum": 0.9},
    "schedule": {"name": "cosine", "warmup": 0.0, "final": 0.0},
    "backbone": {"name": "resnet18", "width": 64, "stem": "small"},
    "views": {
        "crop": 0.5, "side": "image", "flip": 0.5, "jitter": 0.8, "brightness": 0.4,
        "contrast": 0.4, "saturation": 0.4, "hue": 0.2, "gray": 0.2, "blur": 0.1,
        "sigma": (0.1, 2.0), "solarize": 0.1, "mean": 0.5, "std": 0.5, "colors": "faithful",
    },
}  # fmt: skip


@pytest.mark.parametrize("setting", PUBLISHED)
@pytest.mark.parametrize("name", ["paper", "official"])
def test_published_values_are_kept(name: str, setting: str) -> None:
    settings = resolve(name, {})[setting]
    published = PUBLISHED[setting]
    found = {key: settings[key] for key in published}
    assert found | {"sigma": tuple(found.get("sigma", ()))} == published | {
        "sigma": published.get("sigma", ())
    }


# Tong et al., 2023, section 4: the side of an image, of a patch and of what the backbone sees.
SIDES = {
    "cifar10": (32, 16, 32), "cifar100": (32, 16, 32), "tiny-imagenet": (64, 32, 64),
    "imagenet100": (224, 112, 224),
}  # fmt: skip


@pytest.mark.parametrize("data", SIDES)
@pytest.mark.parametrize("name", ["paper", "official", "paper_imagenet100", "official_imagenet100"])
def test_published_patches_are_half_a_side_and_enlarged_twice(name: str, data: str) -> None:
    settings = resolve(name, {})
    image, patch, view = SIDES[data]
    assert settings["image_side"] is None  # the data's own
    policy = build(POLICIES, settings["views"])
    assert (policy.patch_side(image), policy.view_side(image)) == (patch, view)
    images = torch.zeros(2, 3, image, image, dtype=torch.uint8)
    u = torch.full((3, 2, policy.draws), 0.5)
    assert policy(images, u).shape == (3, 2, 3, view, view)


def test_for_imagenet100_the_stem_differs_and_the_authors_crops_vary_in_shape() -> None:
    for name in ("paper", "official"):
        small, large = resolve(name, {}), resolve(f"{name}_imagenet100", {})
        assert large["backbone"] == small["backbone"] | {"stem": "imagenet"}
        assert {key for key in small if small[key] != large[key]} == {"recipe", "backbone"} | (
            {"views"} if name == "official" else set()
        )
    views, patches = large["views"], small["views"]
    assert (views["name"], tuple(views["scale"]), tuple(views["ratio"])) == (
        "crops", (0.25, 0.25), (3 / 4, 4 / 3),
    )  # fmt: skip
    colors = patches.keys() - {"name", "crop", "side"}
    assert {key: views[key] for key in colors} == {key: patches[key] for key in colors}


@pytest.mark.parametrize("name", ["paper", "official"])
def test_a_published_step_takes_100_images_and_200_patches_of_each(name: str) -> None:
    settings = resolve(name, {})
    assert (settings["batch"], settings["patches"], settings["epochs"]) == (100, 200, 1.0)


def test_the_paper_has_one_hidden_layer_and_plain_lars() -> None:
    settings = resolve("paper", {})
    assert settings["projector"] == {"name": "paper", "hidden": 4096, "dim": 512}
    assert not settings["optimizer"]["clip"]


def test_the_authors_code_has_two_hidden_layers_and_a_capped_trust_ratio() -> None:
    settings = resolve("official", {})
    assert settings["projector"] == {"name": "official", "hidden": 4096, "dim": 1024}
    assert settings["optimizer"]["clip"]


def test_published_networks_have_the_published_widths() -> None:
    widths = {}
    for name in ("paper", "official"):
        settings = resolve(name, {})
        network = build_network(settings["backbone"], settings["projector"])
        widths[name] = [
            [m.in_features, m.out_features] for m in network.projector.modules()
            if hasattr(m, "in_features")
        ]  # fmt: skip
    assert widths == {
        "paper": [[512, 4096], [4096, 512]],
        "official": [[512, 4096], [4096, 4096], [4096, 1024]],
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_carried_out(name: str) -> None:
    settings = resolve(name, {})
    policy = build(POLICIES, settings["views"])
    network = build_network(settings["backbone"], settings["projector"])
    assert policy.view_side(settings["image_side"] or 32) >= 8
    assert build_optimizers(network, settings["optimizer"])
    assert build_objective(settings["objective"], dim=network.projector.dim)
    assert build(SCHEDULES, settings["schedule"], steps=10)(0) == 1
    assert (settings["epochs"] is None) != (settings["budget"] is None)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_written_down(name: str) -> None:
    settings = resolve(name, {})
    assert complete(POLICIES, settings["views"]) == settings["views"]
    objective = settings["objective"]
    assert complete(OBJECTIVES, objective, given=GIVEN["objective"]) == objective
    assert yaml.safe_load(yaml.safe_dump(settings))["recipe"] == name


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_recipe_resolves_to_itself(name: str) -> None:
    settings = resolve(name, {"patches": 3, "optimizer": {"weight_decay": 0.5}})
    given = {key: value for key, value in settings.items() if key != "recipe"}
    assert resolve(name, given) == settings


@pytest.mark.parametrize("name", NAMES)
def test_recipes_have_the_same_settings(name: str) -> None:
    assert load(name).keys() == load(DEFAULT).keys()


RIVALS = [name for name in NAMES if load(name)["epochs"] == 1000]


def test_every_objective_with_published_cifar_settings_has_a_recipe_of_its_name() -> None:
    assert set(RIVALS) < set(OBJECTIVES)
    assert {"byol", "ressl", "simclr", "swav", "vicreg"} < set(RIVALS)  # those of the paper


# Of this code, what no option decides; tests of their own see to most.
HERE: dict[str, Any] = {
    "views.interpolation": "bilinear", "views.area": "uniform, ratios that fit",
    "views.kernel": "Gaussian", "batchnorm.over": "all views together",
    "precision": "bfloat16 where the hardware has it, or float32",
    "schedule.start": "one step's share of the peak", "schedule.every": "step",
    "predictor.schedule": "as the network's",
    "objective.scale": 1.0, "objective.loss": "sum of the logarithms, L_out",
    "objective.queue_from_epoch": None, "objective.frozen_epochs": 0,
    "objective.prototypes_unit": "after each update", "objective.gradient": "through both views",
}  # fmt: skip


def layers(head: nn.Module) -> dict[str, list[Any]]:
    """Widths of a head's Linears, and whether a BatchNorm follows each."""
    modules = [m for m in head.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d)]
    linear = [m for m in modules if isinstance(m, nn.Linear)]
    follows = [
        isinstance(after, nn.BatchNorm1d)
        for module, after in zip(modules, [*modules[1:], None], strict=True)
        if isinstance(module, nn.Linear)
    ]
    widths = [linear[0].in_features, *(m.out_features for m in linear)]
    return {"widths": widths, "batchnorm": follows}


def of_ours(name: str) -> dict[str, Any]:
    """The settings of a recipe, by the names of `references/solo_learn.py`."""
    settings = resolve(name, {})
    found = HERE | {key: settings[key] for key in ("patches", "batch", "epochs")}
    for key in ("views", "backbone", "optimizer", "objective"):
        found |= {f"{key}.{option}": value for option, value in settings[key].items()}
    views = settings["views"]
    found["views.side"] = build(POLICIES, views).view_side(32)
    if isinstance(solo_learn.METHODS[name]["views.solarize"], list):
        found["views.solarize"] = [views["solarize"]] * 2
    network = build_network(settings["backbone"], settings["projector"])
    conv = network.backbone.conv1
    found |= {"backbone.kernel": conv.kernel_size[0], "backbone.stride": conv.stride[0],
              "backbone.padding": conv.padding[0],
              "backbone.maxpool": isinstance(network.backbone.maxpool, nn.MaxPool2d)}  # fmt: skip
    objective = build_objective(settings["objective"], dim=network.projector.dim)
    found |= {f"projector.{key}": value for key, value in layers(network.projector).items()}
    if hasattr(objective, "predictor"):
        found |= {f"predictor.{key}": v for key, v in layers(objective.predictor).items()}
    if objective.target == "momentum":
        found["objective.momentum"] = objective.momentum_at(0.0)
        found["objective.final_momentum"] = objective.momentum_at(1.0)
    if name == "swav":
        found["objective.queue"] = 0
    [optimizer] = build_optimizers(network, settings["optimizer"])
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == settings["optimizer"]["weight_decay"]
    found |= {
        "optimizer.decay_vectors": vectors["weight_decay"] > 0,
        "optimizer.adapt_vectors": vectors.get("adapt"),
        "optimizer.nesterov": matrices.get("nesterov"),
    }
    schedule = settings["schedule"]
    found |= {"schedule.name": schedule["name"], "schedule.final": schedule["final"],
              "schedule.warmup_epochs": schedule["warmup"] * settings["epochs"]}  # fmt: skip
    return found


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_trains_as_its_source_has_it_but_for_the_differences_it_lists(name: str) -> None:
    ours, theirs = of_ours(name), solo_learn.settings(name)
    assert theirs.keys() <= ours.keys()
    differing = {
        key: (value, plain(ours[key])) for key, value in theirs.items() if value != plain(ours[key])
    }
    assert differing == differences(name)


def test_solo_learns_variance_weight_is_half_of_ours() -> None:
    z1, z2 = torch.randn(2, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = [(1 - (z.var(0) + 1e-4).sqrt()).clamp(min=0).mean() for z in (0.3 * z1, 0.3 * z2)]
    theirs = 25.0 * (spread[0] + spread[1])
    weight = solo_learn.METHODS["vicreg"]["objective.variance_weight"]
    ours = VICReg(invariance_weight=0.0, variance_weight=weight, covariance_weight=0.0)
    assert float(ours(0.3 * torch.stack([z1, z2])).total) == pytest.approx(float(theirs))


def test_the_page_on_rivals_has_every_difference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rivals.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| `")]
    tables = {"all": EVERYWHERE} | DIFFERS
    expected = [
        f"| `{recipe}` | {key} | {said(theirs)} | {said(ours)} |"
        for recipe, listed in tables.items() for key, (theirs, ours) in listed.items()
    ]  # fmt: skip
    assert rows == expected


def said(value: Any) -> str:
    """A value as a page has it."""
    named = {None: "–", True: "yes", False: "no"}
    if isinstance(value, list):
        return ", ".join(said(each) for each in value)
    if value is None or isinstance(value, bool):
        return named[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_what_is_given_is_laid_over_a_recipe() -> None:
    settings = resolve("paper", {"batch": 50, "objective": {"distortion": 0.5}, "patches": None})
    assert (settings["batch"], settings["patches"]) == (50, 200)
    assert settings["objective"] == {
        "name": "emp", "invariance_weight": 200.0, "distortion": 0.5,
    }  # fmt: skip


def test_another_name_drops_the_recipes_options() -> None:
    assert resolve("official", {"optimizer": "adamw"})["optimizer"]["lr"] == 0.001


@pytest.mark.parametrize(
    ("recipe", "given", "expected"),
    [
        ("demo", None, 0),
        ("demo", 64, 64),
        ("laptop", 0, 0),
        ("laptop", 64, 64),
        ("laptop", {"num_features": 96}, {"name": "mirrored", "num_features": 96, "patch": 6}),
        ("demo", {"num_features": 96}, {"name": "mirrored", "num_features": 96, "patch": 6}),
        ("laptop", "plain", {"name": "plain", "num_features": 1024, "patch": 6}),
    ],
)
def test_whitened_patches_are_a_spec_or_a_number_of_plain_ones(
    recipe: str, given: Any, expected: Any
) -> None:
    assert resolve(recipe, {"whitened": given})["whitened"] == expected


def test_epochs_end_a_budget() -> None:
    assert resolve("demo", {"budget": "3s"})["budget"] == "3s"
    assert resolve("demo", {"epochs": 2.0})["budget"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": "empp"}, "did you mean 'emp'"),
        ({"objective": {"lambda": 1.0}}, "'emp' has no option 'lambda'"),
        ({"backbone": "resnet19"}, "did you mean 'resnet1"),
        ({"backbone": "timm"}, "'timm' needs a value for model"),
        ({"schedule": {"steps": 5}}, "no option 'steps'"),
    ],
)
def test_unknown_names_and_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve("demo", given)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="no recipe 'papers': did you mean 'paper'"):
        resolve("papers", {})


def test_no_recipe_has_the_name_of_a_data_set() -> None:
    assert not set(NAMES) & set(DATA_SETS)


def test_a_form_lies_under_what_is_given_and_over_the_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    form = {"objective": {"momentum": 0.9, "hidden": 64}, "optimizer": {"lr": 0.1}, "batch": 7}
    monkeypatch.setitem(FORMS, "laptop", {"byol": form})
    settings = resolve("laptop", {"objective": {"name": "byol", "hidden": 32}})
    assert (settings["objective"]["momentum"], settings["objective"]["hidden"]) == (0.9, 32)
    assert (settings["optimizer"]["name"], settings["optimizer"]["lr"]) == ("muon_lars", 0.1)
    assert settings["batch"] == 7
    assert resolve("laptop", {"objective": "simsiam"})["optimizer"]["lr"] != 0.1
    assert resolve("demo", {"objective": "byol"})["objective"]["momentum"] == 0.99


@pytest.mark.parametrize(
    ("name", "objective"), [(name, form) for name in FORMS for form in FORMS[name]]
)
def test_a_form_can_be_carried_out(name: str, objective: str) -> None:
    settings = resolve(name, {"objective": objective})
    network = build_network(settings["backbone"], settings["projector"])
    assert build_objective(settings["objective"], dim=network.projector.dim)
    assert build_optimizers(network, settings["optimizer"])

"""The joint embedding: the network's layers and whitened patches of the image side by side."""

from pathlib import Path

import pytest
import torch
from tiny import differences, train_tiny, weights
from torch.nn.functional import normalize

import empssl
from empssl.data import MemoryImages, open_images
from empssl.errors import UsageError
from empssl.evaluation.encoder import Encoder
from empssl.evaluation.features import features
from empssl.evaluation.pooling import Crops
from empssl.evaluation.probes import PROBES
from empssl.models.whitened_patches import MirroredPatches, WhitenedPatches
from empssl.runs.run import Run

FEATURES = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("joint") / "run", whitened=FEATURES)


def pixels(count: int = 6) -> torch.Tensor:
    return open_images("digits", split="test", side=16).read(range(count)).pixels


def test_its_parts_are_of_length_one_and_in_order(run: Path) -> None:
    encoder, images = Encoder.from_pretrained(run), pixels()
    layers = encoder.network.layers
    found = encoder.embed(images, torch.arange(6), Crops.parse("grid2"), layers)
    assert encoder.network.whitened is not None
    parts = [found["backbone"], found["head"], encoder.network.whitened(images)]
    assert torch.allclose(found["joint"], torch.cat([normalize(p) for p in parts], 1), atol=1e-6)
    assert found["joint"].shape == (6, encoder.dim("joint"))


def test_it_alone_can_be_asked_for(run: Path) -> None:
    encoder = Encoder.from_pretrained(run)
    alone = encoder.embed(pixels(), torch.arange(6), Crops.parse("grid2"), ["joint"])
    assert list(alone) == ["joint"]


def test_whitening_is_measured_on_the_training_images(run: Path) -> None:
    train = open_images("digits", split="train", side=16)
    expected = WhitenedPatches(FEATURES).fit(train.read(range(len(train))).pixels, seed=0)
    for name, values in expected.state_dict().items():
        assert torch.equal(weights(run)[f"whitened.{name}"], values)


def test_the_network_learns_as_it_does_without(run: Path, tmp_path: Path) -> None:
    without = train_tiny(tmp_path / "run")
    found = weights(run)
    for name, values in weights(without).items():
        assert torch.equal(found[name], values)


def test_an_interrupted_run_keeps_what_was_measured(run: Path, tmp_path: Path) -> None:
    whole = train_tiny(tmp_path / "whole", whitened=FEATURES)
    train_tiny(whole, resume=True)
    assert differences(whole, run) == []


def test_random_weights_stand_beside_the_same_whitened_patches(run: Path) -> None:
    trained, random = Encoder.from_pretrained(run).network, Encoder.random(run).network
    assert trained.whitened is not None
    assert random.whitened is not None
    assert torch.equal(trained.whitened.dictionary, random.whitened.dictionary)
    assert not torch.equal(trained.backbone.conv1.weight, random.backbone.conv1.weight)


def test_a_network_without_whitened_patches_has_none(tiny_run: Path) -> None:
    encoder = Encoder.from_pretrained(tiny_run)
    assert encoder.network.layers == ("backbone", "head")
    with pytest.raises(UsageError, match=r"no layer 'joint', choose from: .*backbone, head"):
        encoder.encode(pixels(1)[0], layer="joint")


def test_evaluation_scores_it_by_default(run: Path) -> None:
    found = empssl.evaluate(run, "digits", probes=["knn"], crops=["grid1"])
    assert [row.layer for row in found.results] == ["backbone", "head", "joint"]
    random = [row for row in found.baselines if row.model == "random-0"]
    assert [row.layer for row in random] == ["backbone", "head", "joint"]


@pytest.mark.parametrize("features", [-8, 12])
def test_a_number_of_features_that_cannot_be_made_is_refused(features: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a multiple of 8"):
        train_tiny(tmp_path / "run", whitened=features)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_computes_whitened_patches_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, forward = [], WhitenedPatches.forward

    def counted(self: WhitenedPatches, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(WhitenedPatches, "forward", counted)
    found = empssl.evaluate(run, "digits", probes=["knn"], crops=["grid1"], layers=["joint"])
    assert sum(seen) == 1437 + 360
    assert [row.model for row in found.baselines] == ["random-0", "whitened-patches"]


def test_known_whitened_patches_change_nothing(run: Path) -> None:
    encoder, images = Encoder.from_pretrained(run), pixels()
    assert encoder.network.whitened is not None
    data = MemoryImages(images, name="digits", split="test", fingerprint="")
    known = features(
        encoder, data, Crops.parse("grid2"), ["joint"], encoder.network.whitened(images)
    )
    plain = features(encoder, data, Crops.parse("grid2"), ["joint"])
    assert list(known) == list(plain) == ["joint"]
    assert torch.equal(known["joint"], plain["joint"])


# Mirrored patches, and the weight of the network's layers beside them.

SPEC = {"name": "mirrored", "num_features": 96}


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("mirrored") / "run", whitened=SPEC)


def test_a_spec_is_kept_with_every_default_and_made_again(mirrored: Path, run: Path) -> None:
    full = {**SPEC, "patch": 6}
    assert Run(mirrored).config["whitened"] == full
    assert Run(run).config["whitened"] == FEATURES
    assert isinstance(Encoder.from_pretrained(mirrored).network.whitened, MirroredPatches)
    assert isinstance(Encoder.from_pretrained(run).network.whitened, WhitenedPatches)
    images = open_images("digits", split="train", side=16)
    expected = MirroredPatches(96).fit(images.read(range(len(images))).pixels, seed=0)
    for name, values in expected.state_dict().items():
        assert torch.equal(weights(mirrored)[f"whitened.{name}"], values)


def test_a_resumed_run_keeps_its_whitened_patches(mirrored: Path) -> None:
    train_tiny(mirrored, resume=True, whitened=None)
    with pytest.raises(UsageError, match="whitened would change"):
        train_tiny(mirrored, resume=True, whitened=FEATURES)
    with pytest.raises(UsageError, match="whitened would change"):
        train_tiny(mirrored, resume=True, whitened={"num_features": 48})


def test_only_beside_mirrored_patches_do_layers_weigh_more(mirrored: Path, run: Path) -> None:
    new, old = (Encoder.from_pretrained(path).network for path in (mirrored, run))
    parts = [(part.name, part.width, part.weight) for part in new.parts("joint")]
    assert parts == [("backbone", 32, 1.5), ("head", 16, 1.5), ("whitened", 96, 1.0)]
    assert new.parts("head") == old.parts("joint") == ()


def test_probes_weigh_the_parts_of_the_joint_layer(mirrored: Path) -> None:
    options = {"probes": ["ridge", "knn"], "crops": ["grid1"], "layers": ["joint", "head"]}
    found = empssl.evaluate(mirrored, "digits", **options)  # type: ignore[arg-type]
    encoder, data = Encoder.from_pretrained(mirrored), {}
    for split in ("train", "test"):
        images = open_images("digits", split=split, side=16)  # type: ignore[arg-type]
        batch = images.read(range(len(images)))
        kept = MemoryImages(batch.pixels, name="", split="test", fingerprint="")
        embedded = features(encoder, kept, Crops.parse("grid1"), ["joint"])["joint"]
        data[split] = (embedded, images.labels)
    sets = (*data["train"], *data["test"])
    for row in found.results[:2]:
        weighed = PROBES[row.probe](*sets, parts=encoder.network.parts("joint")).accuracy
        assert (row.layer, row.accuracy) == ("joint", weighed)
        assert weighed != PROBES[row.probe](*sets).accuracy
    models = {row.model for row in found.baselines}
    assert models == {"random-0", "whitened-mirrored"}


def test_files_of_embeddings_give_the_scores_of_the_run(mirrored: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        empssl.embed(
            mirrored, "digits", out=tmp_path / f"{split}.parquet", layer="joint", crops="grid1",
            split=split,  # type: ignore[arg-type]
        )  # fmt: skip
    options = {"probes": ["ridge", "knn_whitened", "knn"]}
    files = empssl.evaluate(tmp_path / "train.parquet", str(tmp_path / "test.parquet"), **options)  # type: ignore[arg-type]
    asked = options | {"crops": ["grid1"], "layers": ["joint"], "baselines": False}
    run = empssl.evaluate(mirrored, "digits", **asked)  # type: ignore[arg-type]
    assert [row.accuracy for row in files.results] == [row.accuracy for row in run.results]

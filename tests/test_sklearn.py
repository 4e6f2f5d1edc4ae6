"""The encoder in scikit-learn's pipelines."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from empssl.data import open_images
from empssl.errors import DataError, UsageError
from empssl.evaluation.encoder import Encoder
from empssl.sklearn import EncoderTransformer


def digits(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    images = open_images("digits", split="test", side=16)
    assert images.labels is not None
    pixels = images.read(list(range(count))).pixels
    return pixels.permute(0, 2, 3, 1).numpy(), images.labels[:count].numpy()


@pytest.fixture
def transformer(tiny_run: Path) -> EncoderTransformer:
    return EncoderTransformer(tiny_run, device="cpu")


def test_rows_are_those_of_encode(transformer: EncoderTransformer, tiny_run: Path) -> None:
    images, _ = digits(5)
    encoder = Encoder.from_pretrained(tiny_run, device="cpu")
    found = transformer.set_params(layer="backbone", crops="whole", normalize=True).transform(
        images
    )
    assert found.dtype == np.float32
    expected = encoder.encode(images, layer="backbone", crops="whole", normalize=True)
    assert np.array_equal(found, expected.numpy())
    names = transformer.get_feature_names_out()
    assert (len(names), names[0], names[-1]) == (32, "backbone0", "backbone31")


def test_paths_images_and_arrays_are_taken(transformer: EncoderTransformer, tmp_path: Path) -> None:
    arrays, _ = digits(4)
    opened = [Image.fromarray(array) for array in arrays]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, image in zip(paths, opened, strict=True):
        image.save(path)
    expected = transformer.transform(arrays)
    texts = [str(path) for path in paths]
    for images in (
        list(arrays), opened, paths, texts, np.array(texts), np.array(texts)[:, None],
        np.array(paths, dtype=object), torch.from_numpy(arrays).permute(0, 3, 1, 2), iter(texts),
    ):  # fmt: skip
        assert np.array_equal(transformer.transform(images), expected)
    with pytest.raises(UsageError, match="X has 2 columns, expected one"):
        transformer.transform(np.array([texts, texts]).T)
    with pytest.raises(DataError, match=r"none\.png cannot be read"):
        transformer.transform(["none.png"])


def test_a_pipeline_learns_from_images(transformer: EncoderTransformer) -> None:
    images, labels = digits()
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression(max_iter=200))
    pipeline.fit(images[:40], labels[:40])
    assert pipeline.predict(images[40:]).shape == (20,)
    assert pipeline.score(images[:40], labels[:40]) > 0.9
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again.predict(images), pipeline.predict(images))
    assert pipeline[:1].get_feature_names_out().shape == (16,)


def test_a_search_tries_layers(transformer: EncoderTransformer) -> None:
    images, labels = digits(40)
    few = labels % 2  # two classes, so that each fold has both
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"encodertransformer__layer": ["backbone", "head"]}, cv=2)
    search.fit(images, few)
    assert search.best_params_["encodertransformer__layer"] in ("backbone", "head")
    assert cross_val_score(pipeline, images, few, cv=2).shape == (2,)


def test_a_copy_and_a_pickle_have_the_parameters_and_no_weights(
    transformer: EncoderTransformer,
) -> None:
    images, _ = digits(2)
    expected = transformer.transform(images)
    copied = clone(transformer)
    pickled = pickle.dumps(transformer)
    assert len(pickled) < 1000
    for other in (copied, pickle.loads(pickled)):
        assert other.get_params() == transformer.get_params()
        assert not hasattr(other, "_encoder")
        assert np.array_equal(other.transform(images), expected)


def test_another_run_is_opened_anew(transformer: EncoderTransformer, tmp_path: Path) -> None:
    transformer.transform(digits(2)[0])
    transformer.set_params(run=tmp_path / "none")
    with pytest.raises(Exception, match="none does not exist"):
        transformer.transform(digits(2)[0])
    with pytest.raises(UsageError, match="run is None"):
        EncoderTransformer().transform(digits(2)[0])


# scikit-learn's own checks give estimators tables of numbers, (sample, feature), and so it leaves
# out all but one for those that take none. Of the others these need no data.
NEED_NO_DATA = [
    "check_no_attributes_set_in_init", "check_parameters_default_constructible",
    "check_get_params_invariance", "check_set_params", "check_estimator_cloneable",
    "check_estimator_repr", "check_do_not_raise_errors_in_init_or_set_param",
    "check_valid_tag_types", "check_estimator_tags_renamed",
]  # fmt: skip


@pytest.mark.parametrize("name", NEED_NO_DATA)
def test_the_checks_of_scikit_learn_pass(name: str, transformer: EncoderTransformer) -> None:
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this scikit-learn has no {name}")
    check("EncoderTransformer", transformer)


def test_check_estimator_passes_what_images_allow(transformer: EncoderTransformer) -> None:
    with pytest.warns(SkipTestWarning, match="Can't test estimator EncoderTransformer"):
        estimator_checks.check_estimator(transformer)

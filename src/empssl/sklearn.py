"""A trained encoder as a step of a scikit-learn pipeline."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from sklearn.base import BaseEstimator, TransformerMixin

from empssl.data.any_image import ImageLike
from empssl.errors import UsageError
from empssl.evaluation.encoder import Encoder
from empssl.models import Layer

__all__ = ["EncoderTransformer"]


class EncoderTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to their embeddings, as `Encoder.encode` gives them.

    There is nothing to fit: the encoder is that of a run, which is opened when it is first needed.
    A pickle holds the path of the run and not its weights.

    Args:
        run: a run directory, or one of its model folders.
        layer: `backbone`; `head`, the projector's first block; or another that the run has.
        crops: `grid3`, `random128` or `whole`: the patches whose embeddings are averaged.
        normalize: scale each row to length 1.
        device: auto, cpu, cuda or mps.
    """

    def __init__(
        self,
        run: str | Path | None = None,
        *,
        layer: Layer = "head",
        crops: str = "grid3",
        normalize: bool = False,
        device: str = "auto",
    ) -> None:
        self.run = run
        self.layer = layer
        self.crops = crops
        self.normalize = normalize
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> "EncoderTransformer":  # noqa: N803
        """Do nothing: neither images nor labels are looked at."""
        return self

    def transform(
        self,
        X: ImageLike | Iterable[ImageLike],  # noqa: N803
    ) -> Float32[np.ndarray, "sample feature"]:
        """An embedding of each image, in a row.

        Args:
            X: images: any that `Encoder.encode` takes, such as a list of paths, arrays or PIL
                images, or a uint8 array (sample, height, width, 3); or a column of paths, as a
                NumPy array of texts or a pandas Series.

        Raises:
            UsageError: no run was given, it has no such layer, or there are no images.
            CheckpointError: the run cannot be opened.
            DataError: an image cannot be read; names it.
        """
        embeddings = self._opened().encode(
            _images(X), layer=self.layer, crops=self.crops, normalize=self.normalize
        )
        return embeddings.numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The layer and a number from 0, such as `head0`, for each coordinate of an embedding."""
        dim = self._opened().dim(self.layer)
        return np.asarray([f"{self.layer}{i}" for i in range(dim)], dtype=object)

    def _opened(self) -> Encoder:
        if self.run is None:
            raise UsageError("run is None, expected a run directory, as `empssl train` makes it")
        which = (str(self.run), self.device)
        held: tuple[tuple[str, str], Encoder] | None = getattr(self, "_encoder", None)
        if held is None or held[0] != which:
            held = self._encoder = which, Encoder.from_pretrained(self.run, device=self.device)
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_encoder"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _images(column: Any) -> Any:
    """Images as the encoder takes them; a column of a table, or of texts, as a list."""
    if hasattr(column, "to_numpy"):
        column = column.to_numpy()
    if isinstance(column, np.ndarray) and column.dtype.kind in "OUT":
        if column.ndim > 1 and column.shape[1] != 1:
            raise UsageError(f"X has {column.shape[1]} columns, expected one, of paths or images")
        return column.ravel().tolist()
    return column

"""SparseCoder: the trainer as a scikit-learn transformer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from otoscope.errors import InputError
from otoscope.sae.config import TrainConfig
from otoscope.sae.train import fit

FLOATS = [np.float32, np.float64]


class SparseCoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # pyright: ignore[reportMissingTypeArgument]
    """Sparse codes of rows, learned by an SAE, as a scikit-learn transformer.

    Args:
        latents: number of latents.
        k: number of active latents per row.
        preset: name of a training preset.
        settings: training settings that differ from the preset, such as `{"sparsifier": "batch_topk"}`.
        validation_fraction: share of the rows, or of the groups, that chooses the best state.
        random_state: seed of split, initialisation and shuffling.
        device: device to train on.

    After `fit`, `sae_` is the `SparseAutoencoder`, `result_` the `TrainResult`.

    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(500, 8))
    >>> coder = SparseCoder(latents=16, k=2).fit(rows)
    >>> codes = coder.transform(rows)
    >>> codes.shape, coder.inverse_transform(codes).shape
    ((500, 16), (500, 8))
    """

    def __init__(
        self,
        latents: int = 256,
        k: int = 8,
        *,
        preset: str = "default",
        settings: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.latents = latents
        self.k = k
        self.preset = preset
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: object = None, groups: ArrayLike | None = None) -> "SparseCoder":  # noqa: ARG002, N803
        """Train on rows `[rows, features]`; with `groups`, no group is in both the training and the validation rows.

        Raises `ConfigError` for settings, `TrainingError` for rows that never vary.
        """
        rows = self._validate(X, ensure_min_samples=3)
        random = check_random_state(self.random_state)
        if groups is None:
            splitter = ShuffleSplit(1, test_size=self.validation_fraction, random_state=random)
        else:
            groups = np.asarray(groups)
            if groups.shape != (len(rows),):
                raise InputError(f"groups: expected one per row, {len(rows)}, got shape {list(groups.shape)}")
            splitter = GroupShuffleSplit(1, test_size=self.validation_fraction, random_state=random)
        train, valid = next(splitter.split(rows, groups=groups))
        config = TrainConfig.preset(self.preset, **(self.settings or {}))
        self.result_ = fit(
            rows[train], rows[valid], config,
            latents=self.latents, k=self.k, seed=int(random.randint(2**31)), device=self.device,
        )  # fmt: skip
        self.sae_ = self.result_.sae
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """Return the codes of rows, `[rows, latents]`, in the units of the rows."""
        check_is_fitted(self)
        return self.sae_.encode(self._validate(X, reset=False))

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """Return rows reconstructed from codes."""
        check_is_fitted(self)
        check: Any = check_array
        return self.sae_.decode(check(X, dtype=FLOATS))

    def _validate(self, rows: ArrayLike, **options: Any) -> NDArray[np.floating[Any]]:
        check: Any = validate_data
        return check(self, rows, dtype=FLOATS, **options)

    @property
    def _n_features_out(self) -> int:
        return self.sae_.latents

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # codes are float32
        return tags

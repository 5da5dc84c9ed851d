"""Baselines: fitted codes (PCA, ICA, NMF, k-means, random directions) and codes without information on single clips.

A fitted baseline takes training rows and returns a function from rows to codes. A baseline made from codes permutes or
redraws the codes of the SAE.
"""

import warnings
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import NMF, FastICA
from sklearn.exceptions import ConvergenceWarning

from otoscope.errors import EvaluationError, suggest
from otoscope.resampling.groups import number_groups
from otoscope.resampling.nulls import permute_rows, random_dictionary, random_sparse_codes


@runtime_checkable
class Encode(Protocol):
    """Function from rows to codes, row by row."""

    def __call__(self, rows: Float[np.ndarray, "rows width"], /) -> Float[np.ndarray, "rows latents"]:
        """Return the codes of rows, float32."""
        ...


@runtime_checkable
class Fit(Protocol):
    """Function that fits a code on training rows.

    `latents` and `k` are those of the SAE under comparison; a method limited by the width uses its maximum. Raises
    `EvaluationError` for rows that it cannot be fitted to.
    """

    def __call__(self, rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
        """Return the fitted code."""
        ...


def check_rows(rows: Float[np.ndarray, "rows width"]) -> None:
    """Raise `EvaluationError` for too few rows or values that are not finite."""
    if rows.ndim != 2 or len(rows) < 2:
        raise EvaluationError(f"a baseline is fitted on [rows, width] of at least 2 rows, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise EvaluationError("training rows hold NaN or infinity; drop such rows first")


def fit_pca(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the scores on the principal components, strongest first: a rotation, dense and signed.

    As many components as width, rows and `latents` allow (Jolliffe, *Principal Component Analysis*, 2002).
    Deterministic; `k` and `seed` are not used.
    """
    del k, seed
    check_rows(rows)
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows.astype(np.float64) - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / len(rows))
    number = min(latents, rows.shape[1], len(rows) - 1)
    kept = directions[:, ::-1][:, :number]
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(number)] < 0, -1.0, 1.0)
    known = variance[::-1][:number] > 1e-12 * max(variance[-1], 1e-300)
    basis, origin = kept[:, known].astype(np.float32), (mean @ kept[:, known]).astype(np.float32)
    return lambda new: new.astype(np.float32, copy=False) @ basis - origin


MOST_COMPONENTS = 128
"""Maximum number of independent components; with more, the search takes minutes and does not converge."""

ICA_ITERATIONS = 100


def fit_ica(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the sources found by FastICA (Hyvärinen and Oja, Neural Networks 13, 2000): dense and signed.

    After `ICA_ITERATIONS` the last state is used, even if unconverged. `k` is not used.
    """
    del k
    check_rows(rows)
    number = min(latents, rows.shape[1], len(rows) - 1, MOST_COMPONENTS)
    model = FastICA(number, whiten="unit-variance", max_iter=ICA_ITERATIONS, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows.astype(np.float64))
    basis = np.asarray(model.components_, dtype=np.float64).T
    origin = np.asarray(model.mean_, dtype=np.float64) @ basis
    turned, shift = basis.astype(np.float32), origin.astype(np.float32)
    return lambda new: new.astype(np.float32, copy=False) @ turned - shift


NMF_ITERATIONS = 100
"""Fixed number of updates of the fit and of each code, so that a code does not depend on other rows."""


def fit_nmf(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the component weights of a non-negative matrix factorisation (Lee and Seung, Nature 401, 1999).

    Activations have either sign, so each dimension is shifted by its training minimum, and smaller values of other rows
    are set to 0. Multiplicative updates, initialised by singular vectors; `k` is not used.
    """
    del k
    check_rows(rows)
    least = rows.min(axis=0)
    number = min(latents, rows.shape[1], len(rows), MOST_COMPONENTS)
    # scikit-learn declares the type of the number wrongly
    size: dict[str, Any] = {"n_components": number}
    model = NMF(**size, init="nndsvda", solver="mu", max_iter=NMF_ITERATIONS, tol=0, random_state=seed)
    model.fit(_shifted(rows, least))

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        return np.asarray(model.transform(_shifted(new, least)), dtype=np.float32)

    return encode


def _shifted(rows: Float[np.ndarray, "rows width"], least: Float[np.ndarray, " width"]) -> np.ndarray:
    return np.maximum(rows.astype(np.float32, copy=False) - least, 0)


def fit_kmeans(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return one-hot membership of `latents` clusters (Lloyd 1982, in mini-batches: Sculley, WWW 2010).

    The number of clusters is at most half the number of rows. Pooled over a clip's frames, the code is a histogram of
    audio words. `k` is not used: one cluster is active.
    """
    del k
    check_rows(rows)
    number = max(min(latents, len(rows) // 2), 1)
    # scikit-learn declares the types of these settings wrongly
    settings: dict[str, Any] = {"n_init": 1, "batch_size": 2048, "max_iter": 20, "random_state": seed}
    model = MiniBatchKMeans(number, init="random", **settings)
    model.fit(rows.astype(np.float32, copy=False))

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        codes = np.zeros((len(new), number), dtype=np.float32)
        codes[np.arange(len(new)), model.predict(new.astype(np.float32, copy=False))] = 1
        return codes

    return encode


def permuted(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, groups: Shaped[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows latents"]:
    """Return the codes with their rows permuted within groups, as in every test; rows alone in their group together.

    Relations among latents and effects of the group stay, relations to targets within groups are lost.
    """
    numbers, n_groups = number_groups(groups)
    alone = np.bincount(numbers, minlength=n_groups)[numbers] == 1
    return permute_rows(codes, seed=seed, groups=np.where(alone, n_groups, numbers))


def random_codes(
    codes: Float[np.ndarray, "rows latents"], *, seed: int, groups: Shaped[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows latents"]:
    """Return random codes with each row's L0 and each latent's values over all groups; see `random_sparse_codes`."""
    del groups
    return random_sparse_codes(codes, seed=seed)


def fit_random_topk(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the k largest positive projections on `latents` random unit directions, the others 0.

    Only the mean of the training rows is learned: rows are centred by it.
    """
    check_rows(rows)
    directions = random_dictionary(latents, rows.shape[1], seed=seed)
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        codes = np.maximum((new.astype(np.float32, copy=False) - mean) @ directions.T, 0)
        if k < latents:
            weak = np.argpartition(codes, latents - k, axis=1)[:, : latents - k]
            np.put_along_axis(codes, weak, 0, axis=1)
        return codes

    return encode


FITTED: dict[str, Fit] = {
    "pca": fit_pca,
    "ica": fit_ica,
    "nmf": fit_nmf,
    "kmeans": fit_kmeans,
    "random_topk": fit_random_topk,
}
"""Fitted baselines by name."""


@runtime_checkable
class OfCodes(Protocol):
    """Function from the codes of an SAE to codes without information on single rows of a group."""

    def __call__(
        self, codes: Float[np.ndarray, "rows latents"], /, *, seed: int, groups: Shaped[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows latents"]:
        """Return other codes of the same shape."""
        ...


FROM_CODES: dict[str, OfCodes] = {"random_codes": random_codes, "permuted": permuted}
"""Baselines made from the SAE's own codes, by name."""


def find_fitted(name: str) -> Fit:
    """Return a fitted baseline by name; raise `EvaluationError` with the most similar name if it is unknown."""
    if name not in FITTED:
        raise EvaluationError(f"no baseline {name!r}; {suggest(name, FITTED)}")
    return FITTED[name]

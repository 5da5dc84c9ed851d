"""Metrics of the study's code, including its defects, and its linear probe (Mariotte et al., arXiv 2509.24793).

The probe is one `Linear` with cross-entropy, trained by Adam at 1e-3 in batches of 32; the epoch with the lowest
validation loss is returned.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from otoscope.config.mariotte2025 import ALPHA
from otoscope.errors import EvaluationError
from otoscope.hardware import one_thread
from otoscope.linear.lasso import lasso_weights
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.sparsifiers.topk import TopK


class Forward(NamedTuple):
    """Codes and reconstruction of some rows."""

    codes: Float[np.ndarray, "rows latents"]
    reconstruction: Float[np.ndarray, "rows width"]


class Importance(NamedTuple):
    """Absolute LASSO weights and in-sample R2."""

    abs_weights: Float[np.ndarray, "latents factors"]
    r2: Float[np.ndarray, " factors"]


class StudyDisentanglement(NamedTuple):
    """Disentanglement and share of importance of each latent, and the study's average of the two."""

    scores: Float[np.ndarray, " latents"]
    code_importance: Float[np.ndarray, " latents"]
    average: float


def sae_forward(
    hidden: Float[np.ndarray, "rows width"],
    enc_weight: Float[np.ndarray, "latents width"],
    enc_bias: Float[np.ndarray, " latents"],
    dec_weight: Float[np.ndarray, "width latents"],
    sparsity: float,
) -> Forward:
    """Return `z = TopK(ReLU(W_e x + b_e))` and `W_d z`, with `k = int((1 - sparsity) * latents)`.

    No bias on the decoder, no centring, no scaling.
    """
    rows, encoder, bias, decoder = (torch.from_numpy(np.asarray(a)) for a in (hidden, enc_weight, enc_bias, dec_weight))
    codes = TopK(k_from_sparsity(len(encoder), sparsity))(functional.linear(rows, encoder, bias).relu())
    return Forward(codes.numpy(), functional.linear(codes, decoder).numpy())


def lasso_importance(
    codes: Float[np.ndarray, "rows latents"], factors: Float[np.ndarray, "rows factors"]
) -> Importance:
    """Fit each factor by LASSO at alpha 0.1 with latents and factors standardised; R2 is in-sample.

    With more latents than rows, noise alone reaches an R2 of 0.1 to 0.2. `otoscope.linear.lasso.fit_factors` tunes the
    penalty and scores held-out groups.
    """
    weights, r2 = lasso_weights(codes, factors, alpha=ALPHA)
    return Importance(np.abs(weights), r2)


def disentanglement(abs_weights: Float[np.ndarray, "latents factors"]) -> StudyDisentanglement:
    """Return `D = 1 - H(row) / log(factors)`, the share of each row, and the mean of their product.

    An unused latent has D = 1. The average divides once more by the number of latents, so the identity scores
    1 / latents instead of 1 (`otoscope.metrics.dci.disentanglement` sums).

    >>> disentanglement(np.eye(4)).average
    0.25
    """
    _check_importances(abs_weights)
    scores = 1 - _entropy(abs_weights.T) / np.log(abs_weights.shape[1])
    total = abs_weights.sum(dtype=np.float64)
    share = abs_weights.sum(axis=1, dtype=np.float64) / total if total else np.zeros(len(abs_weights))
    return StudyDisentanglement(scores, share, float(np.mean(share * scores)))


def completeness(abs_weights: Float[np.ndarray, "latents factors"]) -> Float[np.ndarray, " factors"]:
    """Return `C = 1 - H(column) / log(latents)`, which counts dead latents and is 1 for an unpredicted factor.

    >>> completeness(np.array([[1.0, 0.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0]
    """
    _check_importances(abs_weights)
    return 1 - _entropy(abs_weights) / np.log(abs_weights.shape[0])


def _entropy(columns: Float[np.ndarray, "parts columns"]) -> Float[np.ndarray, " columns"]:
    """Return the entropy in nats of each column scaled to sum 1; 0 for an empty column, as in the study."""
    total = columns.sum(axis=0, dtype=np.float64)
    share = columns / np.where(total > 0, total, 1.0)
    logs = np.log(share, out=np.zeros_like(share, dtype=np.float64), where=share > 0)
    return -(share * logs).sum(axis=0)


def _check_importances(abs_weights: Float[np.ndarray, "latents factors"]) -> None:
    if abs_weights.ndim != 2 or min(abs_weights.shape) < 2:
        raise EvaluationError(f"importances must be at least 2 latents by 2 factors, got shape {abs_weights.shape}")
    if not np.isfinite(abs_weights).all() or (abs_weights < 0).any():
        raise EvaluationError("importances must be finite and 0 or more; take absolute values first")


BATCH, LEARNING_RATE = 32, 1e-3


class StudyProbe(NamedTuple):
    """Weights of a probe after the epoch with the lowest validation loss."""

    weight: Float[Tensor, "classes width"]
    bias: Float[Tensor, " classes"]
    epoch: int

    def accuracy(self, rows: Float[np.ndarray, "rows width"], classes: Int[np.ndarray, " rows"]) -> float:
        """Return the accuracy; rows of a class that is absent from training count as errors."""
        with one_thread(), torch.inference_mode():
            predictions = functional.linear(torch.from_numpy(rows), self.weight, self.bias).argmax(dim=1)
        return float(np.mean(predictions.numpy() == classes))


def fit_probe(
    crops: Float[np.ndarray, "crops files width"],
    classes: Int[np.ndarray, " files"],
    valid: Float[np.ndarray, "valid width"],
    valid_classes: Int[np.ndarray, " valid"],
    *,
    epochs: int,
    seed: int,
) -> StudyProbe:
    """Train a probe as the study does: raw rows, no penalty, one shuffled pass over the files per epoch.

    Epoch i uses crop i modulo the number of crops. Classes are numbered from 0; a class that only `valid` has is never
    predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    width, outputs = crops.shape[2], int(classes.max()) + 1
    weight, bias = (_uniform(shape, width, generator) for shape in ((outputs, width), (outputs,)))
    optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    rows, targets = torch.from_numpy(crops), torch.from_numpy(classes)
    valid_rows, valid_targets = torch.from_numpy(valid), torch.from_numpy(valid_classes)
    predictable = valid_targets < outputs
    best, least = StudyProbe(weight.detach().clone(), bias.detach().clone(), 0), float("inf")
    with one_thread():
        for epoch in range(epochs):
            for batch in torch.randperm(len(targets), generator=generator).split(BATCH):
                logits = functional.linear(rows[epoch % len(rows), batch], weight, bias)
                optimiser.zero_grad()
                functional.cross_entropy(logits, targets[batch]).backward()
                optimiser.step()
            with torch.inference_mode():
                logits = functional.linear(valid_rows[predictable], weight, bias)
                loss = float(functional.cross_entropy(logits, valid_targets[predictable]))
            if loss < least:
                best, least = StudyProbe(weight.detach().clone(), bias.detach().clone(), epoch), loss
    return best


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """Draw initial weights as `nn.Linear` does: uniform in ± 1 / sqrt(inputs)."""
    bound = inputs**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_()

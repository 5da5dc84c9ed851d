"""Training losses: terms of one forward pass in normalised units."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import ActiveLatents, BatchState, Penalised, SelectsLatents
from otoscope.sae.sparsifiers.topk import TopK

GATHER_RATIO = 8
"""If fewer than 1 in this many latents are active, gathering atoms is faster than dense products.

Measured on 2 cores (AVX-512, float32, 2,048 latents, widths 384 and 768): gathering is 3 times faster at
k=20, 1.5 times at k=102 and level at k=307."""
GPU_GATHER_RATIO = 512
"""The same on a GPU, whose dense products in bfloat16 are much faster than its gathers; estimated, not measured."""


class BatchForward(NamedTuple):
    """Forward pass of one batch of normalised rows.

    `penalty` is added to the error; `fired` counts the rows in which each latent was active.
    """

    rebuilt: Float[Tensor, "rows width"]
    error: Float[Tensor, ""]
    penalty: Float[Tensor, ""] | None
    fired: Int[Tensor, " latents"]


class ContrastSettings(NamedTuple):
    """Weight of the temporal contrast, and the share of latents that neighbours should have in common."""

    weight: float
    share: float


def forward(
    sae: SparseAutoencoder,
    inner: Float[Tensor, "rows width"],
    *,
    prefixes: Sequence[float] = (1.0,),
    budgets: Sequence[int] = (),
    contrast: ContrastSettings | None = None,
) -> BatchForward:
    """Reconstruct normalised rows, by gathered atoms or dense products, whichever is faster for the sparsifier.

    With several `prefixes` (shares of the dictionary), the error is the mean of the errors that the first latents
    alone leave (see `nested_error`). With several `budgets`, it is the mean of the errors that the largest latents of
    each row leave, as many as a budget allows (see `ranked_error`), and the reconstruction is that of the last.
    `contrast` treats the second half of the rows as the neighbours of the first (see `contrastive_loss`).
    """
    sparsifier, selecting = sae.sparsifier, use_gather(sae)
    if selecting is not None and len(prefixes) == 1 and len(budgets) < 2 and contrast is None:
        return gather_forward(sae, selecting, inner, sparse_gradients=sae.device.type == "cpu")
    pre = sae.preactivate(inner).to(inner.dtype)  # autocast has rounded them
    codes = TopK(budgets[-1])(pre) if len(budgets) > 1 else sparsifier(pre)
    rebuilt = sae.rebuild(codes).to(inner.dtype)
    error = reconstruction_error(rebuilt, inner)
    if len(prefixes) > 1:
        error = nested_error(sae, codes, inner, prefixes)
    if len(budgets) > 1:
        error = ranked_error(sae, pre, inner, budgets)
    penalty = None
    if isinstance(sparsifier, Penalised):
        penalty = sparsifier.penalty(BatchState(inner, pre, codes, sae.decoder, sae.decoder_bias))
    if contrast is not None:
        shared = codes[:, : max(round(contrast.share * sae.latents), 1)]
        term = contrast.weight * contrastive_loss(*shared.chunk(2))
        penalty = term if penalty is None else penalty + term
    return BatchForward(rebuilt, error, penalty, (codes > 0).sum(dim=0))


def reconstruction_error(rebuilt: Float[Tensor, "rows width"], inner: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """Return the mean squared error over rows and dimensions."""
    return F.mse_loss(rebuilt, inner)


def nested_error(
    sae: SparseAutoencoder,
    codes: Float[Tensor, "rows latents"],
    inner: Float[Tensor, "rows width"],
    prefixes: Sequence[float],
) -> Float[Tensor, ""]:
    """Return the mean reconstruction error over prefixes of the dictionary.

    Matryoshka (Bussmann et al., arXiv 2503.17547): early latents must reconstruct without later ones, so
    general factors come first and are not split. Each block of latents is decoded once.
    """
    rebuilt = inner.new_zeros(inner.shape) if sae.decoder_bias is None else sae.decoder_bias.expand_as(inner)
    errors: list[Tensor] = []
    for start, stop in pairwise([0, *prefix_ends(prefixes, sae.latents)]):
        rebuilt = rebuilt + codes[:, start:stop] @ sae.decoder[start:stop]
        errors.append(reconstruction_error(rebuilt, inner))
    return torch.stack(errors).mean()


def prefix_ends(prefixes: Sequence[float], latents: int) -> list[int]:
    """Return the number of latents in each prefix of the dictionary, at least one more than in the one before.

    >>> prefix_ends((0.25, 1.0), 64)
    [16, 64]
    """
    ends: list[int] = []
    for share in prefixes:
        ends.append(max(round(share * latents), (ends[-1] if ends else 0) + 1))
    return ends


def level_budgets(sae: SparseAutoencoder, prefixes: Sequence[float], k_shares: Sequence[float]) -> list[int]:
    """Return the numbers of largest latents that must each reconstruct alone; k alone unless TopK without prefixes.

    >>> level_budgets(SparseAutoencoder(8, 200, TopK(100)), (1.0,), (0.125, 0.25, 0.5, 1.0))
    [12, 25, 50, 100]
    """
    k, ranked = sae.sparsifier.k, type(sae.sparsifier) is TopK and len(prefixes) == 1
    return [max(round(share * k), 1) for share in k_shares] if ranked else [k]


def ranked_error(
    sae: SparseAutoencoder,
    pre: Float[Tensor, "rows latents"],
    inner: Float[Tensor, "rows width"],
    budgets: Sequence[int],
) -> Float[Tensor, ""]:
    """Return the mean reconstruction error over nested numbers of largest latents.

    Multi-TopK (Gao et al., arXiv 2406.04093): the code of each row is also good when it is cut to fewer latents.
    """
    values, indices = pre.topk(budgets[-1], dim=1)
    rebuilt = inner.new_zeros(inner.shape) if sae.decoder_bias is None else sae.decoder_bias.expand_as(inner)
    errors: list[Tensor] = []
    for start, stop in pairwise([0, *budgets]):
        codes = torch.zeros_like(pre).scatter(1, indices[:, start:stop], values[:, start:stop].relu())
        rebuilt = rebuilt + codes @ sae.decoder
        errors.append(reconstruction_error(rebuilt, inner))
    return torch.stack(errors).mean()


def contrastive_loss(
    codes: Float[Tensor, "rows some"], neighbours: Float[Tensor, "rows some"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return the InfoNCE loss between the codes of rows and of their neighbours in time, in nats.

    `-mean_i log(exp(s_ii) / sum_j exp(s_ij))` and the same from neighbour to row, halved, with `s_ij`
    the cosine between row i and the neighbour of row j, over `temperature` (van den Oord et al.
    2018, arXiv 1807.03748; on codes of neighbouring tokens: arXiv 2511.05541). It is `log(rows)` for
    uninformative codes, and 0 if each row equals its neighbour and is orthogonal to all others.

    >>> contrastive_loss(torch.eye(4), torch.eye(4), temperature=0.01).item()
    0.0
    """
    similarity = F.normalize(codes, dim=1) @ F.normalize(neighbours, dim=1).T / temperature
    own = torch.arange(len(codes), device=codes.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def use_gather(sae: SparseAutoencoder) -> SelectsLatents | None:
    """Return the sparsifier if gathering the selected atoms is faster than a dense product, else None."""
    sparsifier = sae.sparsifier
    if not isinstance(sparsifier, SelectsLatents):
        return None
    ratio = GATHER_RATIO if sae.device.type == "cpu" else GPU_GATHER_RATIO
    return sparsifier if sparsifier.k * ratio <= sae.latents else None


def gather_forward(
    sae: SparseAutoencoder,
    sparsifier: SelectsLatents,
    inner: Float[Tensor, "rows width"],
    *,
    sparse_gradients: bool = True,
) -> BatchForward:
    """Reconstruct from the selected atoms alone: decoding reads k atoms per row.

    With `sparse_gradients`, so do the gradients; otherwise the encoder's is a dense product, which compilers can trace.
    """
    if sparse_gradients:
        values, indices = ActiveLatents(*_EncodeSelected.apply(inner, sae.encoder, sae.encoder_bias, sparsifier))
    else:
        values, indices = sparsifier.select(sae.preactivate(inner).to(inner.dtype))
    rebuilt = F.embedding_bag(indices, sae.decoder, per_sample_weights=values, mode="sum")
    if sae.decoder_bias is not None:
        rebuilt = rebuilt + sae.decoder_bias
    with torch.no_grad():
        fired = indices.new_zeros(sae.latents).scatter_add_(0, indices.flatten(), (values > 0).flatten().long())
    return BatchForward(rebuilt, reconstruction_error(rebuilt, inner), None, fired)


class _EncodeSelected(torch.autograd.Function):
    """Encode, rectify and select; only the selected entries have gradients."""

    @staticmethod
    def forward(ctx, inner, encoder, bias, sparsifier):  # pyright: ignore
        values, indices = sparsifier.select(F.linear(inner, encoder, bias))
        ctx.save_for_backward(inner, encoder, values, indices)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx, grad_values, _grad_indices):  # pyright: ignore
        inner, encoder, values, indices = ctx.saved_tensors
        grad = grad_values * (values > 0)
        # d loss / d encoder[j] = sum over rows of grad[row, j] * inner[row]: the sum in embedding_bag's own backward
        with torch.enable_grad():
            weight = encoder.detach().requires_grad_()
            bag = F.embedding_bag(indices, weight, per_sample_weights=grad, mode="sum")
            (grad_encoder,) = torch.autograd.grad(bag, weight, inner)
        grad_bias = None
        if ctx.has_bias:
            grad_bias = grad.new_zeros(len(encoder)).index_add_(0, indices.flatten(), grad.flatten())
        return None, grad_encoder, grad_bias, None


def aux_k_loss(
    sae: SparseAutoencoder,
    inner: Float[Tensor, "rows width"],
    rebuilt: Float[Tensor, "rows width"],
    dead: Bool[Tensor, " latents"],
) -> Float[Tensor, ""]:
    """Return the error of the residual's reconstruction by dead latents (AuxK, arXiv 2406.04093).

    The `width / 2` dead latents with the largest rectified pre-activations of each row fit the
    residual, which counts as a constant; the error is relative to the residual's own size.
    """
    index = dead.nonzero().squeeze(1)
    residual = (inner - rebuilt).detach()
    bias = None if sae.encoder_bias is None else sae.encoder_bias.index_select(0, index)
    pre = F.linear(inner, sae.encoder.index_select(0, index), bias)
    codes = TopK(min(max(sae.width // 2, 1), len(index)))(pre)
    error = F.mse_loss(codes @ sae.decoder.index_select(0, index), residual)
    return error / residual.square().mean().clamp_min(torch.finfo(residual.dtype).tiny)

"""What training minimises: terms on one forward pass in normalised units.

Neighbouring frames should share what is general.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # noqa: N812

from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import Chosen, Penalised, Seen, TopK


def contrast(
    codes: Float[Tensor, "rows some"], beside: Float[Tensor, "rows some"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return how badly rows are told from others by the codes of their neighbours in time, in nats.

    `-mean_i log(exp(s_ii) / sum_j exp(s_ij))` and the same from neighbour to row, halved, with `s_ij`
    the cosine between row i and the neighbour of row j, over `temperature` (InfoNCE, van den Oord et al.
    2018, arXiv 1807.03748; on codes of neighbouring tokens: arXiv 2511.05541). It is `log(rows)` where
    codes tell nothing, and 0 where each row is like its neighbour and like no other.

    >>> contrast(torch.eye(4), torch.eye(4), temperature=0.01).item()
    0.0
    """
    similar = F.normalize(codes, dim=1) @ F.normalize(beside, dim=1).T / temperature
    own = torch.arange(len(codes), device=codes.device)
    return (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2


GATHER = 8
"""With fewer than 1 in this many latents active, gathering atoms beats dense products.

Measured on 2 cores (AVX-512, float32, 2,048 latents, widths 384 and 768): gathering is 3 times faster at
k=20, 1.5 times at k=102 and level at k=307."""


class Forward(NamedTuple):
    """One batch of normalised rows seen by the model.

    `penalty` is what is added to the error; `fired` counts the rows in which each latent was active.
    """

    rebuilt: Float[Tensor, "rows width"]
    error: Float[Tensor, ""]
    penalty: Float[Tensor, ""] | None
    fired: Int[Tensor, " latents"]


class Contrast(NamedTuple):
    """How strongly the first share of latents is to be shared by neighbours in time."""

    weight: float
    share: float


def forward(
    sae: SparseAutoencoder,
    inner: Float[Tensor, "rows width"],
    *,
    prefixes: Sequence[float] = (1.0,),
    contrasted: Contrast | None = None,
) -> Forward:
    """Rebuild normalised rows, by whichever way is cheaper for the sparsifier's budget.

    With several `prefixes`, shares of the dictionary, the error is the mean over the errors of its
    first latents alone (see `nested_error`). `contrasted` takes the second half of the rows for the
    neighbours of the first (see `temporal.contrast`).
    """
    sparsifier, few = sae.sparsifier, gathers(sae)
    if few is not None and tuple(prefixes) == (1.0,) and contrasted is None:
        return gathered(sae, few, inner)
    pre = sae.preactivate(inner)
    codes = sparsifier(pre)
    rebuilt = sae.rebuild(codes)
    error = reconstruction(rebuilt, inner)
    if tuple(prefixes) != (1.0,):
        error = nested_error(sae, codes, inner, prefixes)
    penalty = None
    if isinstance(sparsifier, Penalised):
        penalty = sparsifier.penalty(Seen(inner, pre, codes, sae.decoder, sae.decoder_bias))
    if contrasted is not None:
        first = codes[:, : max(round(contrasted.share * sae.latents), 1)]
        apart = contrasted.weight * contrast(*first.chunk(2))
        penalty = apart if penalty is None else penalty + apart
    return Forward(rebuilt, error, penalty, (codes > 0).sum(dim=0))


def nested_error(
    sae: SparseAutoencoder,
    codes: Float[Tensor, "rows latents"],
    inner: Float[Tensor, "rows width"],
    prefixes: Sequence[float],
) -> Float[Tensor, ""]:
    """Return the mean of the errors with which the first shares of the dictionary rebuild alone.

    Matryoshka (Bussmann et al., arXiv 2503.17547): early latents must do without the later ones, so
    general factors come first and are not split up. Each block of latents is decoded once.
    """
    rebuilt = inner.new_zeros(inner.shape) if sae.decoder_bias is None else sae.decoder_bias.expand_as(inner)
    errors: list[Tensor] = []
    start = 0
    for share in prefixes:
        stop = max(round(share * sae.latents), start + 1)
        rebuilt = rebuilt + codes[:, start:stop] @ sae.decoder[start:stop]
        errors.append(reconstruction(rebuilt, inner))
        start = stop
    return torch.stack(errors).mean()


def gathers(sae: SparseAutoencoder) -> TopK | None:
    """Return the sparsifier where gathering the few atoms of each row is cheaper than a dense product: on a CPU."""
    sparsifier = sae.sparsifier
    if not isinstance(sparsifier, TopK) or sae.device.type != "cpu":
        return None
    return sparsifier if sparsifier.k * GATHER <= sae.latents else None


def gathered(sae: SparseAutoencoder, sparsifier: TopK, inner: Float[Tensor, "rows width"]) -> Forward:
    """Rebuild from the chosen atoms alone: decoding and every gradient touch k atoms a row."""
    chosen = _EncodeChosen.apply(inner, sae.encoder, sae.encoder_bias, sparsifier)
    values, indices = Chosen(*chosen)
    rebuilt = F.embedding_bag(indices, sae.decoder, per_sample_weights=values, mode="sum")
    if sae.decoder_bias is not None:
        rebuilt = rebuilt + sae.decoder_bias
    with torch.no_grad():
        fired = torch.bincount(indices[values > 0], minlength=sae.latents)
    return Forward(rebuilt, reconstruction(rebuilt, inner), None, fired)


class _EncodeChosen(torch.autograd.Function):
    """Encode, rectify and choose; the gradient runs through the chosen entries only."""

    @staticmethod
    def forward(ctx, inner, encoder, bias, sparsifier):  # pyright: ignore
        values, indices = sparsifier.choose(F.linear(inner, encoder, bias))
        ctx.save_for_backward(inner, encoder, values, indices)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx, grad_values, _grad_indices):  # pyright: ignore
        inner, encoder, values, indices = ctx.saved_tensors
        grad = grad_values * (values > 0)
        # d loss / d encoder[j] = sum over rows of grad[row, j] * inner[row]: what embedding_bag's own backward sums
        with torch.enable_grad():
            weight = encoder.detach().requires_grad_()
            bag = F.embedding_bag(indices, weight, per_sample_weights=grad, mode="sum")
            (grad_encoder,) = torch.autograd.grad(bag, weight, inner)
        grad_bias = None
        if ctx.has_bias:
            grad_bias = grad.new_zeros(len(encoder)).index_add_(0, indices.flatten(), grad.flatten())
        return None, grad_encoder, grad_bias, None


def reconstruction(rebuilt: Float[Tensor, "rows width"], inner: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """Return the mean squared error over rows and dimensions."""
    return F.mse_loss(rebuilt, inner)


def aux_k(
    sae: SparseAutoencoder,
    inner: Float[Tensor, "rows width"],
    rebuilt: Float[Tensor, "rows width"],
    dead: Bool[Tensor, " latents"],
) -> Float[Tensor, ""]:
    """Return how badly dead latents rebuild what the living ones left over (AuxK, arXiv 2406.04093).

    The `width / 2` dead latents with the largest rectified pre-activations of each row fit the
    residual, which counts as a constant; the error is relative to the residual's own size.
    """
    index = dead.nonzero().squeeze(1)
    residual = (inner - rebuilt).detach()
    bias = None if sae.encoder_bias is None else sae.encoder_bias.index_select(0, index)
    pre = F.linear(inner, sae.encoder.index_select(0, index), bias)
    codes = TopK(min(max(sae.width // 2, 1), len(index)))(pre)
    left = F.mse_loss(codes @ sae.decoder.index_select(0, index), residual)
    return left / residual.square().mean().clamp_min(torch.finfo(residual.dtype).tiny)

"""Sparsifiers with a penalty whose weight is adjusted until rows have k active latents on average."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.sparsifiers.base import BatchState, PenaltyController, check_positive, threshold_for_l0


class ReLU(nn.Module):
    """Rectify; a penalty on `sum of codes * atom length` keeps codes sparse (Bricken et al. 2023).

    The weight of the penalty starts at `penalty_weight` and is adjusted at `penalty_rate` until rows have `k` active
    latents on average (see `PenaltyController`).
    """

    def __init__(self, k: int, *, penalty_weight: float = 1e-3, penalty_rate: float = 0.05) -> None:
        super().__init__()
        self.k, self.penalty_weight, self.penalty_rate = k, penalty_weight, penalty_rate
        self.strength = PenaltyController(k, start=penalty_weight, rate=penalty_rate)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the positive pre-activations."""
        return pre.relu()

    def initial_threshold(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the threshold above which these rows have `k` pre-activations on average."""
        return threshold_for_l0([pre], k=self.k)

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return `weight * mean over rows of sum_i code_i |atom_i|`."""
        self.strength.update(batch.codes)
        lengths = batch.decoder.norm(dim=1)
        return self.strength.weight * (batch.codes @ lengths).mean()


class Gated(nn.Module):
    """Gate and magnitude share the encoder's weights (Rajamanoharan et al. 2024, arXiv 2404.16014).

    `gate = pre; magnitude = exp(stretch) * pre + shift; codes = [gate > 0] * relu(magnitude)`.
    The penalty is an L1 norm on the gate, plus the error of a reconstruction from the gate alone through a frozen
    decoder, which is the gate's only other gradient. The weight of the L1 norm starts at `penalty_weight` and is
    adjusted at `penalty_rate` until rows have `k` active latents on average. In eval mode the gate's threshold is
    `level`, calibrated on validation rows so that held-out L0 <= k.
    """

    level: Float[Tensor, ""]

    def __init__(self, k: int, latents: int, *, penalty_weight: float = 1e-3, penalty_rate: float = 0.05) -> None:
        super().__init__()
        self.k, self.penalty_weight, self.penalty_rate = k, penalty_weight, penalty_rate
        self.register_buffer("level", torch.zeros(()))
        self.stretch = nn.Parameter(torch.zeros(latents))
        self.shift = nn.Parameter(torch.zeros(latents))
        self.strength = PenaltyController(k, start=penalty_weight, rate=penalty_rate)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the rectified magnitudes of the latents with an open gate."""
        return torch.where(pre > (0 if self.training else self.level), self._magnitude(pre).relu(), 0.0)

    def _magnitude(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        return self.stretch.exp() * pre + self.shift

    @torch.no_grad()
    def initial_threshold(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the threshold at which these rows have `k` open gates; `shift` undoes it for the magnitudes."""
        threshold = threshold_for_l0([pre], k=self.k)
        self.shift.fill_(threshold)
        return threshold

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the gate's threshold at which rows have at most `k` active latents on average."""
        active = (torch.where(self._magnitude(batch) > 0, batch, 0.0) for batch in pre)
        self.level.copy_(threshold_for_l0(active, k=self.k))

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return `weight * mean sum relu(gate) |atom| + mean squared error of the gate's own reconstruction`."""
        self.strength.update(batch.codes)
        decoder, gate = batch.decoder.detach(), batch.pre.relu()
        rebuilt = gate @ decoder
        if batch.decoder_bias is not None:
            rebuilt = rebuilt + batch.decoder_bias.detach()
        return self.strength.weight * (gate @ decoder.norm(dim=1)).mean() + F.mse_loss(rebuilt, batch.inner)


class JumpReLU(nn.Module):
    """Keep pre-activations above their latent's threshold (Rajamanoharan et al. 2024, arXiv 2407.14435).

    The step has no useful gradient, so the logarithm of each threshold learns through a rectangular
    window of width `bandwidth` (straight-through estimator): with `u = log(pre / threshold)`,
    `d codes / d log threshold = -threshold [|u| < bandwidth / 2] / bandwidth`, in any units.
    The penalty is the number of active latents. Its weight starts at `penalty_weight` and is adjusted at
    `penalty_rate` until rows have `k` on average. In eval mode all thresholds are multiplied by `lift`, calibrated on
    validation rows so that held-out L0 <= k.
    """

    lift: Float[Tensor, ""]

    def __init__(
        self, k: int, latents: int, *, bandwidth: float = 0.5, penalty_weight: float = 1e-2, penalty_rate: float = 0.05
    ) -> None:
        super().__init__()
        self.k, self.bandwidth = k, check_positive(bandwidth, name="bandwidth")
        self.penalty_weight, self.penalty_rate = penalty_weight, penalty_rate
        self.register_buffer("lift", torch.ones(()))
        self.log_threshold = nn.Parameter(torch.full((latents,), -2.0))
        self.strength = PenaltyController(k, start=penalty_weight, rate=penalty_rate)

    @torch.no_grad()
    def initialise(self, pre: Float[Tensor, "rows latents"]) -> None:
        """Set one threshold for all latents, at which these rows have `k` active latents on average."""
        share = 1.0 - self.k / pre.shape[-1]
        ranked = pre.flatten().sort().values
        level = ranked[min(int(share * len(ranked)), len(ranked) - 1)]
        self.log_threshold.fill_(float(level.clamp_min(1e-3).log()))

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return pre-activations above their thresholds, zero elsewhere."""
        if not self.training:
            return torch.where(pre > self.lift * self.log_threshold.exp(), pre, 0.0)
        return _Jump.apply(pre, self.log_threshold, self.bandwidth)  # pyright: ignore[reportReturnType]

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the factor at which rows have at most `k` active latents on average."""
        threshold = self.log_threshold.detach().exp()
        self.lift.copy_(threshold_for_l0((batch / threshold for batch in pre), k=self.k))

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return `weight * mean number of active latents`."""
        self.strength.update(batch.codes)
        active: Tensor = _Active.apply(batch.pre, self.log_threshold, self.bandwidth)  # pyright: ignore[reportAssignmentType]
        return self.strength.weight * active.sum(dim=-1).mean()


def _window(pre: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
    """Return `[|log(pre / threshold)| < bandwidth / 2] / bandwidth`."""
    half = bandwidth / 2
    near = (pre > (log_threshold - half).exp()) & (pre < (log_threshold + half).exp())
    return near.to(pre.dtype) / bandwidth


def _sum_over_rows(values: Tensor) -> Tensor:
    return values.sum(dim=tuple(range(values.ndim - 1)))


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, log_threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > log_threshold.exp(), pre, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, log_threshold = ctx.saved_tensors
        slope = -log_threshold.exp() * _window(pre, log_threshold, ctx.bandwidth)
        return torch.where(pre > log_threshold.exp(), grad, 0.0), _sum_over_rows(grad * slope), None


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, log_threshold)
        ctx.bandwidth = bandwidth
        return (pre > log_threshold.exp()).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, log_threshold = ctx.saved_tensors
        return None, _sum_over_rows(-grad * _window(pre, log_threshold, ctx.bandwidth)), None

"""The same step by autograd and torch.optim, dense, to hold the kernels against."""

import torch
from torch.nn import functional as F  # noqa: N812


def top_codes(pre, k):
    """Rectify and keep the k largest of each row, of equal values the first."""
    order = pre.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(pre).scatter(1, order, pre.relu().gather(1, order))


class Reference:
    def __init__(self, weights, settings, *, centre=0.0, scale=1.0):
        self.settings, self.centre, self.scale = settings, centre, scale
        self.named = {name: torch.tensor(array, requires_grad=True) for name, array in weights.named().items()}
        encoder = [p for name, p in self.named.items() if name == "encoder"]
        others = [p for name, p in self.named.items() if name != "encoder"]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": encoder, "weight_decay": settings.encoder_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
        )

    def forward(self, rows):
        inner = (rows - self.centre) / self.scale
        pre = F.linear(inner, self.named["encoder"], self.named.get("encoder_bias"))
        codes = top_codes(pre, self.settings.k)
        return inner, pre, codes, codes @ self.named["decoder"] + self.named.get("decoder_bias", 0.0)

    def __call__(self, rows, *, learning_rate, dead=None):
        inner, pre, codes, rebuilt = self.forward(torch.as_tensor(rows))
        loss = main = F.mse_loss(rebuilt, inner)
        if dead is not None and dead.any():
            residual = (inner - rebuilt).detach()
            alive = torch.from_numpy(~dead)
            aux_codes = top_codes(pre.masked_fill(alive, -1.0), self.settings.aux_k)
            aux = F.mse_loss(aux_codes @ self.named["decoder"], residual) / residual.square().mean()
            loss = main + self.settings.aux_coefficient * aux
        self.optimiser.zero_grad()
        loss.backward()
        decoder = self.named["decoder"]
        with torch.no_grad():
            if self.settings.unit_norm:
                decoder.grad -= (decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate
            self.optimiser.step()
            if self.settings.unit_norm:
                decoder /= decoder.norm(dim=1, keepdim=True)
        return main.item(), codes.detach()

    def moment(self, name, key):
        return self.optimiser.state[self.named[name]][key].numpy()

"""The study's linear probe: one `Linear`, cross-entropy, Adam at 1e-3, batches of 32, best validation loss."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from otoscope.sae.resources import one_thread

BATCH, LEARNING_RATE = 32, 1e-3


class Probe(NamedTuple):
    """Weights of a probe, as they were after the epoch of least validation loss."""

    weight: Float[Tensor, "classes width"]
    bias: Float[Tensor, " classes"]
    epoch: int

    def accuracy(self, rows: Float[np.ndarray, "rows width"], classes: Int[np.ndarray, " rows"]) -> float:
        """Return the share of rows whose class is the likeliest; a class that training lacked is always wrong."""
        with one_thread(), torch.inference_mode():
            found = functional.linear(torch.from_numpy(rows), self.weight, self.bias).argmax(dim=1)
        return float(np.mean(found.numpy() == classes))


def fit_probe(
    crops: Float[np.ndarray, "crops files width"],
    classes: Int[np.ndarray, " files"],
    valid: Float[np.ndarray, "valid width"],
    valid_classes: Int[np.ndarray, " valid"],
    *,
    epochs: int,
    seed: int,
) -> Probe:
    """Train a probe as the study does: raw rows, no penalty, a shuffled pass over the files each epoch.

    Epoch i sees crop i of each file, over and over. Classes count from 0; what only `valid` has is
    never predicted.
    """
    generator = torch.Generator().manual_seed(seed)
    width, outputs = crops.shape[2], int(classes.max()) + 1
    weight, bias = (_uniform(shape, width, generator) for shape in ((outputs, width), (outputs,)))
    optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    rows, wanted = torch.from_numpy(crops), torch.from_numpy(classes)
    held, held_wanted = torch.from_numpy(valid), torch.from_numpy(valid_classes)
    seen = held_wanted < outputs
    best, least = Probe(weight.detach().clone(), bias.detach().clone(), 0), float("inf")
    with one_thread():
        for epoch in range(epochs):
            for batch in torch.randperm(len(wanted), generator=generator).split(BATCH):
                logits = functional.linear(rows[epoch % len(rows), batch], weight, bias)
                optimiser.zero_grad()
                functional.cross_entropy(logits, wanted[batch]).backward()
                optimiser.step()
            with torch.inference_mode():
                logits = functional.linear(held[seen], weight, bias)
                loss = float(functional.cross_entropy(logits, held_wanted[seen]))
            if loss < least:
                best, least = Probe(weight.detach().clone(), bias.detach().clone(), epoch), loss
    return best


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """Draw as `nn.Linear` does: uniform in ± 1 / sqrt(inputs)."""
    bound = inputs**-0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).requires_grad_()

"""The same architecture before it learned anything: what its structure alone hears."""

from dataclasses import replace
from typing import Any

import torch

from otoscope.encoders.base import Encoder
from otoscope.errors import EncoderError


def with_fresh_weights(encoder: Encoder, *, seed: int) -> Encoder:
    """Return an encoder of the same configuration whose weights are drawn anew by `seed`.

    Every weight starts as the family starts before its training; front end, layers and frames stay
    as they are. A random stack of convolutions and attention still passes spectral statistics on, so
    a claim about what a model learned must beat it (Heap et al., arXiv 2501.17727). Raises
    `EncoderError` for an encoder that is not one of ours.
    """
    held: Any = encoder
    if not hasattr(held, "model"):
        raise EncoderError(f"{encoder.name} does not say what its model is, so it cannot be drawn anew")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh: Any = type(held.model)(held.model.config)
    model = held.runtime.ready(fresh.to(dtype=torch.float32).eval())
    name, revision = f"{held.name} (untrained)", f"untrained-{seed}-{held.revision}"
    return replace(held, model=model, name=name, revision=revision)

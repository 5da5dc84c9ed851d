"""Splice: replace a layer by its reconstruction, run the layers after it, and measure the effect."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from otoscope.encoders.base import Encoded, Encoder, Wave, check_layers
from otoscope.encoders.batched import BatchedEncoder
from otoscope.encoders.catalog import TrainedOn
from otoscope.encoders.hooks import replace_states
from otoscope.errors import EncoderError, EvaluationError
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import Z, jackknife_sums
from otoscope.resampling.nulls import random_dictionary
from otoscope.resampling.paired import paired_error
from otoscope.sae.model import SparseAutoencoder

Substitute = Callable[[Float[Tensor, "frames width"]], Float[Tensor, "frames width"]]
"""Function of the valid frames of one clip; the result takes their place."""


@dataclass(frozen=True, eq=False)
class Splice:
    """An encoder whose layer is replaced by a function of it.

    Only valid frames are replaced, with `span_s` only those whose centre lies between its two times: padding and
    special tokens keep their states. `encode` has the arguments of `Encoder.encode`; each clip has its own pass.
    """

    encoder: BatchedEncoder
    layer: int
    substitute: Substitute = field(repr=False)
    span_s: tuple[float, float] | None = None

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Return the states of `layers` after the replacement, padded as `Encoder.encode` pads them."""
        parts = [self._encode_one(wave, layers) for wave in waves]
        longest = max(part.mask.shape[1] for part in parts)

        def padded(states: list[Tensor]) -> Tensor:
            return torch.cat([torch.nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for s in states])

        mask = torch.cat([torch.nn.functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts])
        tokens = {layer: torch.cat([part.tokens[layer] for part in parts]) for layer in parts[0].tokens}
        return Encoded({layer: padded([part.layers[layer] for part in parts]) for layer in layers}, mask, tokens)

    def _encode_one(self, wave: Wave, layers: Sequence[int]) -> Encoded:
        with replace_states({self.layer: self.edit(wave.shape[0])}):
            return self.encoder.encode([wave], layers)

    def edit(self, samples: int) -> Callable[[Tensor], Tensor]:
        """Return a function that replaces the frames of a clip in a block's output `[1, rows, width]`."""
        rows = self.encoder.state_positions(samples)
        if self.span_s is not None:
            frames = self.encoder.frames(samples)
            centres_s = (frames.start_s + frames.end_s) / 2
            rows = rows[(centres_s >= self.span_s[0]) & (centres_s < self.span_s[1])]
            if not len(rows):
                raise EncoderError(
                    f"span_s {self.span_s} holds no frame of a clip of {samples / self.encoder.rate_hz:.2f} s; give "
                    "seconds inside the clip"
                )
        positions = torch.from_numpy(rows)

        def replace(state: Tensor) -> Tensor:
            rows = state[0, positions.to(state.device)]
            replaced = state.clone()
            replaced[0, positions.to(state.device)] = self.substitute(rows.float()).to(state.dtype)
            return replaced

        return replace


def splice(
    encoder: Encoder,
    sae: SparseAutoencoder,
    layer: int,
    *,
    error_term: bool = False,
    edit: Callable[[Float[Tensor, "frames latents"]], Float[Tensor, "frames latents"]] | None = None,
    span_s: tuple[float, float] | None = None,
) -> Splice:
    """Replace a layer by its reconstruction.

    Args:
        encoder: a loaded model.
        sae: the SAE of this layer's frames.
        layer: 0 replaces the input of the first block, i the output of block i.
        error_term: add the error of the reconstruction, so that only `edit` changes the layer: the new state is
            `x + decode(edit(codes)) - decode(codes)`, and exactly `x` without an edit.
        edit: change of the codes of a clip.
        span_s: start and end in seconds of the frames that change; all frames by default.

    Raises `UnknownLayer`, and `EncoderError` for an encoder whose states have no axis of frames (EnCodec), for a
    wrapped module, and for an SAE of another encoder, layer or width, or of pooled clips.

    Example::

        encoder = otoscope.load_encoder("starter")
        sae = otoscope.SparseAutoencoder.from_pretrained("runs/demo/saes/ID")
        states = splice(encoder, sae, 3).encode([wave], layers=[4])
    """

    def substitute(rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        codes = sae.encode(rows)
        edited = codes if edit is None else edit(codes)
        if not error_term:
            return sae.decode(edited)
        return rows if edit is None else rows + sae.decode(edited) - sae.decode(codes)

    check_layers([layer], encoder.layers, encoder.name)
    require_trained_on(sae, encoder, layer)
    return splice_with(encoder, layer, substitute, width=sae.width, span_s=span_s)


def require_trained_on(sae: SparseAutoencoder, encoder: Encoder, layer: int) -> None:
    """Raise `EncoderError` if the card of an SAE names another encoder, another layer, or pooled clips."""
    card = sae.card
    if card.get("pooling") == "pool_then_encode":
        raise EncoderError(
            "this SAE encodes pooled clips, and a layer consists of frames; give an SAE of frames (pooling "
            "encode_then_pool)"
        )
    if card.get("layer", layer) != layer:
        raise EncoderError(f"this SAE was trained on layer {card['layer']}, not on layer {layer}; name its layer")
    trained = TrainedOn.of(card) if card.get("encoder") else None
    if trained is not None and trained.name != encoder.name and trained.revision != encoder.revision:
        raise EncoderError(
            f"this SAE was trained on {trained.name}, not on {encoder.name}; load its encoder with "
            "load_encoder(for_=sae)"
        )


def splice_with(
    encoder: Encoder,
    layer: int,
    substitute: Substitute,
    *,
    width: int | None = None,
    span_s: tuple[float, float] | None = None,
) -> Splice:
    """Replace a layer by a function of its frames; raise as `splice` does."""
    check_layers([layer], encoder.layers, encoder.name)
    encoder = require_replaceable(encoder)
    actual = next(one.width for one in encoder.layers if one.index == layer)
    if width is not None and width != actual:
        raise EncoderError(
            f"this SAE takes frames of width {width}, layer {layer} of {encoder.name} has width {actual}; give the SAE "
            "that was trained on this layer"
        )
    if span_s is not None and not 0 <= span_s[0] < span_s[1]:
        raise EncoderError(f"span_s is {span_s}; give start and end in seconds, start first, such as (0.5, 1.0)")
    return Splice(encoder, layer, substitute, span_s)


def require_replaceable(encoder: Encoder) -> BatchedEncoder:
    """Return the encoder; raise `EncoderError` if its blocks have no frames that can be replaced."""
    if not isinstance(encoder, BatchedEncoder):
        raise EncoderError(f"{encoder.name} runs no blocks that can be replaced; load a model with load_encoder")
    encoder.state_positions(encoder.min_samples)  # raises for families without frames in their blocks
    return encoder


def mean_ablation(mean: Float[np.ndarray, " width"]) -> Substitute:
    """Return a substitute that replaces every frame by one state, usually the mean over training frames."""
    state = torch.from_numpy(np.asarray(mean, dtype=np.float32))
    return lambda rows: state.to(rows.device).expand_as(rows)


def principal_components(rows: Float[np.ndarray, "rows width"], components: int) -> Substitute:
    """Return a substitute that projects frames on the first principal components of these rows."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = torch.from_numpy(vectors[:, ::-1][:, :components].astype(np.float32).copy())
    centre = torch.from_numpy(mean.astype(np.float32))
    return lambda frames: (frames - centre.to(frames)) @ axes.to(frames) @ axes.to(frames).T + centre.to(frames)


def random_atoms(sae: SparseAutoencoder, rows: Float[np.ndarray, "rows width"], *, seed: int = 0) -> SparseAutoencoder:
    """Return an SAE with the scaling and the sparsifier of another, and random unit atoms as decoder and tied encoder.

    `fit_gain` on `rows` gives its reconstruction the right size, so that the directions of the atoms are compared.
    """
    twin = deepcopy(sae)
    atoms = torch.from_numpy(random_dictionary(sae.latents, sae.width, seed=seed).astype(np.float32))
    with torch.no_grad():
        twin.encoder.copy_(atoms)
        twin.decoder.copy_(atoms)
        for bias in (twin.encoder_bias, twin.decoder_bias):
            if bias is not None:
                bias.zero_()
        twin.fit_gain(twin.normalise(torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))))
    return twin


def recovered_share(spliced: float, untouched: float, ablated: float, *, noise: float = 0.0) -> float:
    """Return `(spliced - ablated) / (untouched - ablated)`; NaN unless the ablation does more harm than `noise`.

    0 is the mean-ablated layer, 1 the untouched one. Scores may be better when larger or when smaller.

    >>> recovered_share(0.8, 0.9, 0.1), recovered_share(0.5, 0.5, 0.5)
    (0.875, nan)
    """
    harm = untouched - ablated
    return (spliced - ablated) / harm if abs(harm) > noise else math.nan


class SpliceScore(NamedTuple):
    """Score of a substitute with the scores of the untouched and of the mean-ablated layer, and the recovered share.

    `low` and `high` are the 95 % interval of the share over groups.
    """

    value: float
    untouched: float
    ablated: float
    recovered: float
    low: float
    high: float
    clips: int
    groups: int


def score_shares(
    spliced: Float[np.ndarray, " clips"],
    untouched: Float[np.ndarray, " clips"],
    ablated: Float[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
    *,
    weights: Float[np.ndarray, " clips"] | None = None,
) -> SpliceScore:
    r"""Return the mean scores of clips and the recovered share with its interval over groups.

    The share is undefined (NaN) if the 95 % interval of `untouched - ablated` over groups includes 0: the ablation then
    does no harm beyond noise. The interval is that of the jackknife of the share $r = (s - a) / (u - a)$ itself. Where
    scores are right or wrong it is at least that of independent clips, whose standard error is
    $\sqrt{1 + \sum_i (s_i - r u_i - (1 - r) a_i)^2} / (n \lvert u - a \rvert)$: for $r = 1$ McNemar's, of the clips on
    which the spliced and the untouched pass disagree. An interval of zero width is missing elsewhere. `weights` weight
    the clips, for example by their number of words.
    """
    if not len(spliced) == len(untouched) == len(ablated) == len(groups):
        raise EvaluationError("give one score per clip for the spliced, the untouched and the ablated layer")
    weight = np.ones(len(spliced)) if weights is None else weights
    columns = np.stack([spliced * weight, untouched * weight, ablated * weight, weight], axis=1)
    sums = group_sums(columns, groups)

    def share(drawn: Float[np.ndarray, "drawn 4"]) -> Float[np.ndarray, " drawn"]:
        harm = drawn[:, 1] - drawn[:, 2]
        return np.divide(drawn[:, 0] - drawn[:, 2], harm, out=np.full(len(drawn), np.nan), where=harm != 0)

    value, low, high = jackknife_sums(sums, share)
    _, harm_low, harm_high = jackknife_sums(sums, lambda drawn: (drawn[:, 1] - drawn[:, 2]) / drawn[:, 3])
    total = columns.sum(axis=0)
    harmless = bool(harm_low <= 0 <= harm_high) or total[1] == total[2]
    share_of, ends = (math.nan, (math.nan, math.nan)) if harmless else (float(value), (float(low), float(high)))
    spliced_mean, untouched_mean, ablated_mean = (float(x) for x in total[:3] / total[3])
    if np.isin(np.stack([spliced, untouched, ablated]), (0.0, 1.0)).all():
        harm = untouched_mean - ablated_mean
        # zero on a clip where the spliced pass agrees with the one that the share says it equals
        change = columns[:, 0] - share_of * columns[:, 1] - (1 - share_of) * columns[:, 2]
        reach = Z * paired_error(change / weight.mean()) / abs(harm) if harm else math.nan
        most = max(((1.0 if harm > 0 else 0.0) - ablated_mean) / harm, share_of) if harm else math.nan
        ends = min(ends[0], share_of - reach), min(max(ends[1], share_of + reach), most)
    elif ends[0] == ends[1]:
        ends = math.nan, math.nan
    return SpliceScore(spliced_mean, untouched_mean, ablated_mean, share_of, *ends, len(spliced), len(sums))


def frame_cosine(
    states: Float[np.ndarray, "frames width"],
    reference: Float[np.ndarray, "frames width"],
    mean: Float[np.ndarray, " width"],
) -> float:
    """Return the mean cosine between the frames of two passes, both relative to `mean`; 1 for frames that are equal.

    >>> frame_cosine(np.eye(2), np.eye(2), np.zeros(2)), frame_cosine(np.eye(2), np.eye(2)[::-1], np.zeros(2))
    (1.0, 0.0)
    """
    a, b = (frames.astype(np.float64) - mean for frames in (states, reference))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same: Bool[np.ndarray, " frames"] = (states == reference).all(axis=1)
    cosine = np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)
    return float(np.where(same, 1.0, np.clip(cosine, -1.0, 1.0)).mean())

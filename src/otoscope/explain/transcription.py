"""Transcription by a Whisper model with a spliced encoder, and its word error rate."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from otoscope.corpus.datasets.fsdd import DIGITS
from otoscope.encoders.base import check_layers
from otoscope.encoders.families.whisper import WhisperEncoder
from otoscope.encoders.model_folder import silence_transformers
from otoscope.encoders.resolve import resolve
from otoscope.errors import EncoderError
from otoscope.explain.splice import Splice, Substitute


class WordErrors(NamedTuple):
    """Word errors (substitutions, insertions and deletions), words of the reference, and words found in their order."""

    errors: int
    words: int
    found: int


def word_errors(reference: Sequence[str], transcript: str) -> WordErrors:
    """Return the Levenshtein distance between words, and the length of their longest common subsequence.

    The word error rate is `errors / words`; a transcript that repeats itself to its end has a rate far above 1 although
    all words are found. Both texts are lower-cased and their punctuation dropped. Digits become words, one each, and
    "oh" becomes "zero".

    >>> word_errors(["seven", "zero"], " 7, oh, nine."), word_errors(["one"], "")
    (WordErrors(errors=1, words=2, found=2), WordErrors(errors=1, words=1, found=0))
    """
    wanted, said = normalise(" ".join(reference)), normalise(transcript)
    row, common = list(range(len(said) + 1)), [0] * (len(said) + 1)
    for i, word in enumerate(wanted, start=1):
        previous, row[0], shared = row[0], i, 0
        for j, heard in enumerate(said, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != heard))
            shared, common[j] = common[j], shared + 1 if word == heard else max(common[j], common[j - 1])
    return WordErrors(row[-1], len(wanted), common[-1])


def normalise(transcript: str) -> list[str]:
    """Return the words of a transcript; digits become words, one each.

    >>> normalise("Zero, 47 - oh!")
    ['zero', 'four', 'seven', 'zero']
    """
    text = unicodedata.normalize("NFKC", transcript).lower()
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)
    return ["zero" if word in ("oh", "o") else word for word in words]


class Transcriber:
    """The whole Whisper model of an encoder; its encoder can be spliced."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        if encoder.runtime.context != "exact":
            raise EncoderError(f"{encoder.name} transcribes its whole window only; load it with context='exact'")
        self.encoder = encoder

    @cached_property
    def _model(self) -> Any:
        from transformers import WhisperForConditionalGeneration

        folder = resolve(self.encoder.name).folder
        with silence_transformers():
            model: Any = WhisperForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
        return model.to(self.encoder.runtime.device).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(resolve(self.encoder.name).folder, local_files_only=True)

    def transcribe(
        self,
        wave: Float[np.ndarray, " samples"],
        *,
        layer: int | None = None,
        substitute: Substitute | None = None,
        until: int | None = None,
    ) -> str:
        """Return the transcript of a clip of at most 30 s.

        With `layer` and `substitute`, a layer of the encoder is replaced. With `until`, the blocks after that layer are
        skipped: the decoder reads the layer through the encoder's final norm (encoder lens, Langedijk et al., arXiv
        2310.03686). Raises `UnknownLayer` for a layer that does not exist.
        """
        check_layers([i for i in (layer, until) if i is not None], self.encoder.layers, self.encoder.name)
        features = self.encoder.extractor(
            [wave], sampling_rate=self.encoder.rate_hz, return_tensors="pt"
        ).input_features.to(self.encoder.runtime.device)
        with ExitStack() as stack:
            if until is not None:
                for block in self._model.model.encoder.layers[until:]:
                    stack.callback(block.register_forward_hook(_skip).remove)
            if layer is not None and substitute is not None:
                edit = Splice(self.encoder, layer, substitute).edit(len(wave))
                stack.callback(self._replace(layer, edit).remove)
            with torch.inference_mode(), silence_transformers():
                ids = self._model.generate(features, max_new_tokens=64, do_sample=False, num_beams=1)
        return str(self._tokenizer.batch_decode(ids, skip_special_tokens=True)[0])

    def _replace(self, layer: int, edit: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        blocks = self._model.model.encoder.layers

        def before(_: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (edit(args[0]), *args[1:])

        if layer == 0:
            return blocks[0].register_forward_pre_hook(before)

        def after(_: object, __: object, output: Any) -> Any:
            return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

        return blocks[layer - 1].register_forward_hook(after)


def _skip(_: object, args: tuple[Any, ...], output: Any) -> Any:
    """Return the input of a block instead of its output."""
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

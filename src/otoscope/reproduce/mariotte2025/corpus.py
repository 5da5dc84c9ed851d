"""Input of the study: VocalSet files, their sides, the crops of each file, and the pipeline that encodes them.

The pipeline pads crops to 5 s with zeros, encodes in train mode, and plays some layers of MERT at a wrong sample rate.
"""

import math
import re
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from otoscope.config.mariotte2025 import ReproductionSettings, Switches
from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.checks import make_clip_id
from otoscope.corpus.datasets.vocalset import ENDINGS, VocalSetCorpus
from otoscope.corpus.listing import ProgressCallback
from otoscope.corpus.splits import Splits, assign_splits, rank_by_hash
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoded, Encoder, Frames, Layer, Wave
from otoscope.encoders.catalog import load_encoder
from otoscope.encoders.families.ast import ASTEncoder, PatchGrid
from otoscope.encoders.families.wav2vec2 import IGNORED_KEYS, TRAINING_ONLY, Wav2Vec2Encoder
from otoscope.encoders.model_folder import load_weights, read_config
from otoscope.encoders.resolve import resolve
from otoscope.errors import SplitError

CROP_S = 5.0

WAVLM_ONLY = (r"\.attention\.(gru_rel_pos_|rel_attn_embed)",)
"""Keys of WavLM's gated relative position bias, which wav2vec 2.0 lacks."""


class AllPatches(PatchGrid):
    """Patch grid in which padding counts: every patch of the full window is valid."""

    def count_time_steps(self, samples: int) -> int:
        """Return the number of time steps of the full window for a clip of any length."""
        del samples
        return self.time_steps


@dataclass(frozen=True, eq=False)
class StudyEncoder:
    """Encoder with the input pipeline of the study; see `study_encoder`.

    Args:
        inner: the model.
        pad_s: shorter clips are padded with zeros to this length, and the padding counts as audio.
        rate_hz: sample rate of the audio; the model treats it as its own rate.
        stochastic: dropout, LayerDrop and time masks are active, seeded by the samples of each clip.
    """

    inner: Encoder
    pad_s: float
    rate_hz: int
    stochastic: bool

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.inner.name

    @property
    def revision(self) -> str:
        """Revision of the model and settings of the input pipeline."""
        settings = [f"padded to {self.pad_s:g} s"] if self.pad_s else []
        settings += (
            [f"{self.rate_hz} Hz treated as {self.inner.rate_hz} Hz"] if self.rate_hz != self.inner.rate_hz else []
        )
        settings += ["train mode"] if self.stochastic else []
        inner = self.inner
        settings += ["all patches"] if isinstance(inner, ASTEncoder) and isinstance(inner.grid, AllPatches) else []
        settings += ["as wav2vec 2.0"] if type(getattr(inner, "model", None)).__name__ == "Wav2Vec2Model" else []
        return ", ".join([inner.revision, *settings])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the model."""
        return self.inner.layers

    @property
    def window_s(self) -> float | None:
        """Window of the model."""
        return self.inner.window_s

    @property
    def min_samples(self) -> int:
        """Minimum length of a clip: one sample if clips are padded, else that of the model."""
        return 1 if self.pad_s else self.inner.min_samples

    def frames(self, samples: int) -> Frames:
        """Return the frame times of a clip, padding included."""
        return self.inner.frames(max(samples, self._padded_samples))

    def encode(self, waves: Sequence[Wave], layers: Sequence[int]) -> Encoded:
        """Pad and encode clips; see `Encoder.encode`."""
        tensors = (torch.as_tensor(wave) for wave in waves)
        padded = [functional.pad(wave, (0, max(self._padded_samples - len(wave), 0))) for wave in tensors]
        if not self.stochastic:
            return self.inner.encode(padded, layers)
        return _concatenate([self._encode_in_train_mode(wave, layers) for wave in padded])

    @property
    def _padded_samples(self) -> int:
        return round(self.pad_s * self.rate_hz)

    def _encode_in_train_mode(self, wave: Float[Tensor, " samples"], layers: Sequence[int]) -> Encoded:
        # seeded by the samples: a clip gets the same noise in every run
        with train_mode(self.inner, seed=zlib.crc32(wave.numpy().tobytes())):
            return self.inner.encode([wave], layers)


def study_encoder(
    inner: Encoder, *, crop: bool, switches: Switches, stochastic: bool = False, rate_hz: int | None = None
) -> Encoder:
    """Return the model with the input pipeline of the study.

    `crop` is for 5 s clips (shorter ones are padded with zeros); whole files are padded by AST only, whose
    spectrogram has a fixed length. `stochastic` is for training clips.
    """
    padded = switches.padding == "counted"
    if padded and isinstance(inner, ASTEncoder):
        grid = AllPatches(**{f.name: getattr(inner.grid, f.name) for f in fields(PatchGrid)})
        inner = replace(inner, grid=grid)
    return StudyEncoder(
        inner,
        pad_s=min(CROP_S, inner.window_s or CROP_S) if crop and padded else 0.0,
        rate_hz=rate_hz or inner.rate_hz,
        stochastic=stochastic and switches.encoder_mode == "train",
    )


def load_study_encoder(checkpoint: str, switches: Switches, *, device: str = "cpu") -> Encoder:
    """Load a checkpoint in its own architecture; by default WavLM loads as wav2vec 2.0, as in the authors' code."""
    source = resolve(checkpoint)
    settings = read_config(source.folder)
    # Whisper is not a model of the study; as a stand-in it encodes the given audio without padding to 30 s
    context = "short" if settings["model_type"] == "whisper" else "exact"
    encoder = load_encoder(checkpoint, context=context, device=device)
    if switches.wavlm == "wavlm" or settings["model_type"] != "wavlm" or not isinstance(encoder, Wav2Vec2Encoder):
        return encoder
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config.from_dict({k: v for k, v in settings.items() if k not in ("model_type", "architectures")})
    config.output_hidden_states = config.output_attentions = False
    model = load_weights(
        Wav2Vec2Model,
        source.folder,
        config=config,
        attention="sdpa",
        optional=(TRAINING_ONLY,),
        ignored=(*IGNORED_KEYS, *WAVLM_ONLY),
    )
    return replace(encoder, model=encoder.runtime.prepare(model))


@contextmanager
def train_mode(encoder: Encoder, *, seed: int) -> Generator[None]:
    """Set a model to train mode with a seed, as in the authors' loop; restore eval mode afterwards.

    Dropout and SpecAugment's time masks are those of the model. A block that LayerDrop skips returns its input,
    as in transformers, so that its recorded output is defined.
    """
    model: Any = getattr(encoder, "model", None)
    if not isinstance(model, nn.Module):
        yield
        return
    config: Any = model.config
    share = float(getattr(config, "layerdrop", 0.0) or 0.0)
    blocks = getattr(getattr(model, "encoder", None), "layers", None)
    rng = np.random.default_rng(seed)
    hooks = [block.register_forward_hook(_layer_drop(share, rng), with_kwargs=True) for block in blocks or ()]
    legacy = np.random.get_state()  # noqa: NPY002  transformers draws time masks from it
    try:
        model.train()
        config.layerdrop = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(legacy)  # noqa: NPY002
        config.layerdrop = share
        model.eval()
        for hook in hooks:
            hook.remove()


def _layer_drop(share: float, rng: np.random.Generator) -> Callable[..., Any]:
    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if rng.random() >= share:
            return None
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return after


def _concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate clips that were encoded separately, padded with zeros to the longest."""
    longest = max(part.mask.shape[1] for part in parts)

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.cat([functional.pad(t, (0, 0, 0, longest - t.shape[1])) for t in tensors])

    mask = torch.cat([functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts])
    layers = {layer: padded([part.layers[layer] for part in parts]) for layer in parts[0].layers}
    tokens = {layer: torch.cat([part.tokens[layer] for part in parts]) for layer in parts[0].tokens}
    return Encoded(layers, mask, tokens)


Take = Literal["train", "valid", "test", "whole"]

VALID_SHARE = 0.2
LABEL = "technique"


def list_vocalset(root: Path, settings: ReproductionSettings) -> Corpus:
    """Return the corpus from file names and headers, without decoding; digests are empty."""
    listing = VocalSetCorpus(root=root, vowels=ENDINGS).listing(root)
    seconds, rates = zip(*(_header(listing.root / path) for path in listing.clips["path"]), strict=True)
    known = {"duration_s": pl.Series(seconds, dtype=pl.Float64), "rate_hz": pl.Series(rates, dtype=pl.Int64)}
    clips = listing.clips.with_columns(**known, clip_id=pl.col("path"), digest=pl.lit(""), start_s=pl.lit(0.0))
    clips = assign_splits(clips.filter(pl.col("rate_hz") > 0), Splits())
    return _filtered(Corpus(listing.name, listing.root, clips, listing.set_aside), settings)


def read_vocalset(
    root: Path, settings: ReproductionSettings, *, cache: Path, on_progress: ProgressCallback | None = None
) -> Corpus:
    """Return VocalSet with the filter of the study: ten techniques, names that end in a vowel, c, f or spoken.

    The test split is the five published singers. Raises what `build_corpus` raises.
    """
    spec = VocalSetCorpus(root=root, vowels=ENDINGS)
    return _filtered(build_corpus(spec, Splits(), cache=cache, on_progress=on_progress), settings)


def _filtered(corpus: Corpus, settings: ReproductionSettings) -> Corpus:
    misspelt = pl.col("path").map_elements(_is_vibrado, return_dtype=pl.Boolean)
    if settings.vibrado == "drop":
        corpus = replace(corpus, clips=corpus.clips.filter(~misspelt))
    # the study draws validation files from the training singers, so the split is train and test only
    sides = pl.when(pl.col("split") == "test").then(pl.lit("test")).otherwise(pl.lit("train"))
    return replace(corpus, clips=corpus.clips.with_columns(sides.alias("split")))


def assign_sides(corpus: Corpus, settings: ReproductionSettings) -> dict[str, Take]:
    """Return the side of each file by path; a fifth of the training files, or singers, is used for validation.

    Files are ranked by a hash of seed and name. The authors shuffle a list in file system order, so their exact
    split cannot be reproduced.
    """
    by = "path" if settings.valid_split == "files" else "group"
    train = corpus.clips.filter(pl.col("split") == "train")
    ranked = rank_by_hash(train[by].unique().to_list(), seed=settings.seed)
    held_out = set(ranked[: max(1, round(VALID_SHARE * len(ranked)))])
    sides: dict[str, Take] = {
        path: "valid" if key in held_out else "train" for path, key in zip(train["path"], train[by], strict=True)
    }
    if set(sides.values()) != {"train", "valid"}:
        raise SplitError(
            f"{train.height} training files of {len(ranked)} {by}s cannot be split into train and valid; "
            "add recordings of training singers"
        )
    sides.update((path, "test") for path in corpus.clips.filter(pl.col("split") == "test")["path"])
    return sides


def cut_takes(corpus: Corpus, settings: ReproductionSettings) -> pl.DataFrame:
    """Return the takes of each file: the columns of `Corpus.clips` and `take, crop, file_s`.

    Training files give `crops` random crops of 5 s, validation and test files their first 5 s, test files also
    the whole file. A file of at most 5 s has one crop.
    """
    side = assign_sides(corpus, settings)
    rows: list[dict[str, object]] = []
    for clip in corpus.clips.iter_rows(named=True):
        take = side[clip["path"]]
        for crop, start_s in enumerate(_starts(clip["path"], clip["duration_s"], take, settings)):
            length_s = min(CROP_S, clip["duration_s"] - start_s)
            cut = {"start_s": start_s, "duration_s": length_s, "clip_id": make_clip_id(clip["path"], start_s, length_s)}
            rows.append({**clip, **cut, "take": take, "crop": crop, "file_s": clip["duration_s"]})
        if take == "test":
            rows.append({**clip, "take": "whole", "crop": 0, "file_s": clip["duration_s"]})
    return pl.DataFrame(
        rows, schema={**corpus.clips.schema, "take": pl.String(), "crop": pl.Int64(), "file_s": pl.Float64()}
    )


def _header(path: Path) -> tuple[float, int]:
    """Return duration and sample rate from the header, zeros if it cannot be read."""
    try:
        header = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return 0.0, 0
    return header.duration, header.samplerate


def _is_vibrado(path: str) -> bool:
    return re.search("vibrado", path, re.IGNORECASE) is not None


def _starts(path: str, duration_s: float, take: Take, settings: ReproductionSettings) -> list[float]:
    spare_s = duration_s - CROP_S
    if take != "train" or spare_s <= 0:
        return [0.0]
    rng = np.random.default_rng([settings.seed, zlib.crc32(path.encode())])
    # milliseconds keep crop names short; equal starts are one clip
    return sorted({math.floor(1000 * start) / 1000 for start in rng.uniform(0, spare_s, settings.crops)})

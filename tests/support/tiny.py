"""Tiny random-weight checkpoints of every family, written as Hugging Face folders."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

BLOCKS, WIDTH = 3, 16

SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVOLUTIONS = {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
QUANTISER = {"num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8}
SQUEEZED = {"conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2], "squeeze_factor": 2}
MERT_FLAGS = {"feature_extractor_cqt": False, "deepnorm": False, "attention_relax": -1.0, "feat_proj_layer_norm": True}


def scrambled(model: Any, seed: int) -> Any:
    """Move every weight off its initial value: at transformers' own a block is nearly the identity."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model.eval()


def _write(model: Any, extractor: Callable[[], Any], folder: Path, seed: int) -> None:
    scrambled(model, seed).save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        extractor().save_pretrained(folder)


def _wav2vec2(kind: str, settings: dict[str, Any], *, do_normalize: bool) -> Callable[[Path, int], None]:
    def write(folder: Path, seed: int) -> None:
        config = getattr(transformers, f"{kind}Config")(**SHAPE, **{**CONVOLUTIONS, **settings})
        extractor = partial(transformers.Wav2Vec2FeatureExtractor, do_normalize=do_normalize)
        _write(getattr(transformers, f"{kind}Model")(config), extractor, folder, seed)

    return write


def _mert(folder: Path, seed: int) -> None:
    """HuBERT under MERT's configuration, with the positional convolution's weights under their old names."""
    config = transformers.HubertConfig(**SHAPE, **CONVOLUTIONS)
    extractor = partial(transformers.Wav2Vec2FeatureExtractor, do_normalize=True, sampling_rate=24000)
    _write(transformers.HubertModel(config), extractor, folder, seed)
    edit_config(
        folder,
        model_type="mert_model",
        architectures=["MERTModel"],
        auto_map={"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
        **MERT_FLAGS,
    )
    edit_weights(folder, old_weight_norm_names)


def _wav2vec2_bert(folder: Path, seed: int) -> None:
    config = transformers.Wav2Vec2BertConfig(**SHAPE, feature_projection_input_dim=40, conv_depthwise_kernel_size=7)
    extractor = partial(transformers.SeamlessM4TFeatureExtractor, num_mel_bins=20, feature_size=20)
    _write(transformers.Wav2Vec2BertModel(config), extractor, folder, seed)


def _encodec(folder: Path, seed: int) -> None:
    config = transformers.EncodecConfig(
        num_filters=1, compress=1, hidden_size=WIDTH, codebook_size=32, codebook_dim=WIDTH, target_bandwidths=[1.5]
    )
    _write(transformers.EncodecModel(config), transformers.EncodecFeatureExtractor, folder, seed)


def _clap(folder: Path, seed: int) -> None:
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_embeds_hidden_size": WIDTH // 2,
        "depths": [1, BLOCKS],
        "num_attention_heads": [2, 2],
        "window_size": 4,
        "hidden_size": WIDTH,
        "projection_dim": 8,
    }
    text = {**SHAPE, "vocab_size": 30, "projection_dim": 8, "max_position_embeddings": 16}
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=8)
    extractor = partial(
        transformers.ClapFeatureExtractor, feature_size=16, max_length_s=1, truncation="rand_trunc", hop_length=480
    )
    _write(transformers.ClapModel(config), extractor, folder, seed)


def _whisper(folder: Path, seed: int) -> None:
    config = transformers.WhisperConfig(
        d_model=WIDTH,
        encoder_layers=BLOCKS,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        num_mel_bins=20,
        max_source_positions=150,
        max_target_positions=8,
        vocab_size=30,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    extractor = partial(transformers.WhisperFeatureExtractor, feature_size=20, chunk_length=3)
    _write(transformers.WhisperModel(config), extractor, folder, seed)


def _ast(folder: Path, seed: int) -> None:
    config = transformers.ASTConfig(**SHAPE, max_length=128)
    _write(transformers.ASTModel(config), partial(transformers.ASTFeatureExtractor, max_length=128), folder, seed)


TINY: dict[str, Callable[[Path, int], None]] = {
    "wav2vec2": _wav2vec2("Wav2Vec2", QUANTISER, do_normalize=True),
    "wav2vec2-large": _wav2vec2("Wav2Vec2", {**QUANTISER, **LARGE}, do_normalize=True),
    "hubert": _wav2vec2("Hubert", {}, do_normalize=True),
    "hubert-large": _wav2vec2("Hubert", LARGE, do_normalize=True),
    "wavlm": _wav2vec2("WavLM", QUANTISER, do_normalize=False),
    "wavlm-large": _wav2vec2("WavLM", {**QUANTISER, **LARGE}, do_normalize=True),
    "data2vec-audio": _wav2vec2(
        "Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 19}, do_normalize=True
    ),
    "unispeech-sat": _wav2vec2("UniSpeechSat", QUANTISER, do_normalize=True),
    "unispeech-sat-large": _wav2vec2("UniSpeechSat", {**QUANTISER, **LARGE}, do_normalize=True),
    "sew": _wav2vec2("SEW", SQUEEZED, do_normalize=True),
    "sew-d": _wav2vec2("SEWD", {**SQUEEZED, "max_relative_positions": 16}, do_normalize=True),
    "wav2vec2-bert": _wav2vec2_bert,
    "encodec": _encodec,
    "clap": _clap,
    "mert": _mert,
    "whisper": _whisper,
    "ast": _ast,
}
"""Every family and layout; Whisper's window is 3 s here and AST's 1.28 s, the others have none."""


def write_tiny_checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint of 3 blocks, 16 wide, at real frame rates; the same seed gives the same weights."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TINY[family](folder, seed)
    finally:
        torch.random.set_rng_state(state)
    return folder


def edit_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_preprocessor(folder: Path, **settings: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def split_weights(folder: Path) -> None:
    """Write the weights of a folder as two shards and their index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def old_weight_norm_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, before in old.items():
        weights = {name.replace(new, before): tensor for name, tensor in weights.items()}
    return weights

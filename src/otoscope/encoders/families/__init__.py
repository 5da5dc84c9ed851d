"""Encoder families: one module per architecture, each a subclass of `BatchedEncoder` and its loader.

- `wav2vec2`: wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech-SAT, SEW, SEW-D, MERT-v1 loaded as
  HuBERT, and wav2vec2-BERT, a Conformer over log-mel frames
- `whisper`: Whisper's encoder, with its 30 s window or the clip alone
- `ast`: the Audio Spectrogram Transformer, whose frames are patches
- `clap`: the last stage of CLAP's audio tower
- `encodec`: EnCodec's encoder before quantisation

To add a family: write a module here and add one line to `otoscope.encoders.catalog.FAMILIES`. The modules import
transformers and are loaded on first use, so nothing is exported here.
"""

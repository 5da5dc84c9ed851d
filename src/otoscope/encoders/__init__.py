"""Pretrained audio encoders behind one interface.

Start with `load_encoder("openai/whisper-tiny.en")`; `encode(waves, layers)` returns hidden states and a mask.

- `load_encoder`: load a folder, a Hub model or the offline starter model; `FAMILIES` and `MODELS` list what is known
- `Encoder`: the interface; `Layer`, `Frames` and `Encoded` are its layer geometry, frame positions and batch of states
- `BatchedEncoder`: base class for a new family; `Runtime` holds device, threads and precision
- `wrap_encoder`: any PyTorch module as an encoder
- `capture`: activations at any named sub-module of any model
- `reinitialise`: the same architecture with newly drawn weights, a baseline
- `families`: one module per architecture; `precision`: exact float32 or fast bfloat16
- `resolve`, `starter`, `model_folder`: from an identifier to a folder, its revision, and strict loading of its files
"""

import lazy_loader

# Names are declared in __init__.pyi only, and imported on first access: torch takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

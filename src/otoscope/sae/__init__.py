"""Sparse autoencoders (SAEs): train, load, save, encode and decode. Nothing here depends on audio.

Start with `fit(rows, valid_rows, latents=2048, sparsity=0.95)`, or with `SparseAutoencoder.from_pretrained(folder)`.

Model
- `SparseAutoencoder`: `encode`, `decode`, `from_pretrained`, `save_pretrained`; arrays and tensors
- `load_sae`, `save_sae`: the same as functions, with the card
- `TopK`, `BatchTopK`, `ReLU`, `JumpReLU`, `Gated`: sparsifiers; `Sparsifier` is their interface

Training
- `fit`: train one SAE; returns a `TrainResult`
- `TrainConfig`: every setting; `TrainConfig.preset("default", sparsifier="batch_topk")`; `PRESETS`
- `Bank`, `BankMember`: many SAEs in parallel on the same rows
- `SparseCoder`: scikit-learn estimator
- `begin`, `train_steps`, `finish`: a run step by step

Rows
- `ArrayRows`: rows of an array; `RowSource` is the interface of sources that do not fit in memory
- `RowStatistics`, `compute_statistics`: mean, variance and principal axes, computed once for many SAEs
- `Shuffle`: the seeded order of rows
"""

import lazy_loader

# Names are declared in __init__.pyi only, and imported on first access: the compiled kernels take a second to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]

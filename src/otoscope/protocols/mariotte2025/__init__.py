"""The protocol of Mariotte et al. 2025 (arXiv 2509.24793), including the defects of its code.

It reproduces published numbers; use `held_out` or `strict` for new measurements. Docstrings state where the study
differs from them. Each defect that affects a figure has a switch in the configuration (`Mariotte2025Settings`).

- `metrics`: the study's SAE, LASSO, completeness, disentanglement and linear probe.
- `measure`: all records of one representation, under the switches.
- `run`: the protocol in an ordinary run (`plan`).
- `published`: the four encoders, their layers and checkpoints, the published figures with standard errors, and the
  comparison with new results.

Start with `measure`. Main names: `completeness`, `disentanglement`, `lasso_importance`, `sae_forward`.
"""

from otoscope.protocols.mariotte2025.metrics import (
    ALPHA,
    Forward,
    Importance,
    StudyDisentanglement,
    completeness,
    disentanglement,
    lasso_importance,
    sae_forward,
)

NAME = "mariotte2025"

__all__ = [
    "ALPHA",
    "NAME",
    "Forward",
    "Importance",
    "StudyDisentanglement",
    "completeness",
    "disentanglement",
    "lasso_importance",
    "sae_forward",
]

"""What the study's own code computes, defects and all (Mariotte et al., arXiv 2509.24793).

Kept to reproduce published numbers; ask new questions with `otoscope.evaluate` instead. Where the
two differ, the docstring says how; what the authors' defects did to a figure can be switched, one
by one (`switches`).
"""

from otoscope.protocols.mariotte2025.metrics import (
    ALPHA,
    Disentanglement,
    Forward,
    Importance,
    completeness,
    disentanglement,
    lasso_importance,
    sae_forward,
)

NAME = "mariotte2025"

__all__ = [
    "ALPHA",
    "NAME",
    "Disentanglement",
    "Forward",
    "Importance",
    "completeness",
    "disentanglement",
    "lasso_importance",
    "sae_forward",
]

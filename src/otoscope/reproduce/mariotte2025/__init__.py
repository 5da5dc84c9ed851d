"""Reproduction of Mariotte et al. 2025 (arXiv 2509.24793) on VocalSet.

Start with `run.reproduce`, which also writes the page of the comparison. `corpus` selects files and crops and is the
input pipeline of the study, `stores` holds hidden states, `model_run` trains and evaluates one model, and `estimate`
plans disk space and time. The measures are those of `otoscope.protocols.mariotte2025`.
"""

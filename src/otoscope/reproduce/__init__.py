"""Published studies, reproduced from audio to every number; one package per study.

- `mariotte2025`: Sparse Autoencoders Make Audio Foundation Models more Explainable (arXiv 2509.24793)
"""

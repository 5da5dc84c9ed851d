"""Sparse autoencoders: dictionaries, sparsifiers, training, checkpoints."""

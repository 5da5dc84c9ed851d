"""Open pretrained audio models with sparse autoencoders."""

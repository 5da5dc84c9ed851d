"""What latents respond to: the moments at which they fire."""

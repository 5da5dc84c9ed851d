"""How questions are asked of representations: arrays in, result rows out."""

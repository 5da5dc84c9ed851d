"""Pretrained audio models behind one protocol."""

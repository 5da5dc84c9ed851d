"""What can be measured or known about a clip: descriptors, ground truth, the user's own table."""

"""Parameters, FLOPs, bytes, seconds and dollars of a shape."""

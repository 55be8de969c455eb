"""Exhibits of the kernels."""

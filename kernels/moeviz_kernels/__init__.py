"""Triton kernels for sparse Mixture-of-Experts layers: none yet, the place is reserved.

This package knows torch, triton and the tensors of a Plan. It never imports moeviz.
"""

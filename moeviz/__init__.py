"""moeviz: an interactive lab for sparse Mixture-of-Experts language models.

Importing the package is light: torch, matplotlib and datasets are imported where they are used.
"""

__version__ = "0.1.0"

"""Writes a model of ours as a Hugging Face checkpoint: one file a format, and what they share."""

from moeviz.model.export.checkpoint import FORMATS, write_checkpoint

__all__ = ["FORMATS", "write_checkpoint"]

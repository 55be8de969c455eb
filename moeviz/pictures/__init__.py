"""Pictures: pure functions from what happened (numpy) to a Picture, an SVG with its table twin."""

from moeviz.pictures.svg import Picture

__all__ = ["Picture"]

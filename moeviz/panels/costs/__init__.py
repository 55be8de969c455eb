"""Exhibits of what a model costs."""

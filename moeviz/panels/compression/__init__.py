"""Exhibits of a model that is made smaller."""

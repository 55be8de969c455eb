"""Exhibits of many models in one: experts that are added, mixed and loaded."""

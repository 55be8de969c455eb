"""Changing a trained model: experts taken out, merged, factored, and the router after it."""

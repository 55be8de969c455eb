"""Beyond one device and one number format: what the costs compute, run."""

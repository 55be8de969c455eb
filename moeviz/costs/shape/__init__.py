"""The parts that a model is made of, as sizes."""

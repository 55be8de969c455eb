"""Published scaling laws of sparse models: what each says of one model, and where they part."""

"""What a model reads: corpora, embedded domains, installed packages, sources, the tokenizer."""

"""What a model reads: corpora, embedded domains, sources, the tokenizer."""

"""Corpus tokenization jobs: plan songs into units, tokenize them, store tokens and failures."""

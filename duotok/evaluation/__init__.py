"""Measures of a tokenizer: predictability of its codes, what they tell of the music, what its heads rebuild from them."""

"""Training corpora: build one from scores and free programs, index the user's own, separate mixtures into stems."""

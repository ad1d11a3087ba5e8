"""Training: what is trained (`task`), the loop that trains it (`loop`), its configuration, checkpoints, log and plots."""

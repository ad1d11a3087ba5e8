"""A page to listen to: an excerpt of a song, what its codes decode to, and what both look like."""

"""Experiments: sweeps of training runs, and other comparisons; each writes results.json, a picture and a page."""

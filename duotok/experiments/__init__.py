"""Experiments, one a file, run as `python -m duotok.experiments.NAME`; each writes results.json, a picture and a page."""

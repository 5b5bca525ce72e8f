"""Benches, one file for each layer; README.md says what the numbers mean."""

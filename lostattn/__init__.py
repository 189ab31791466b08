"""Mechanistic interpretability for large vision-language models."""

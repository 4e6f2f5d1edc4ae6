"""Classifiers on frozen embeddings."""

"""One encoder: embeddings, probes, measures without labels."""

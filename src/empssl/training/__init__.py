"""One run: from images to a trained encoder."""

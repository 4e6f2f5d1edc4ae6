"""A run on disk: its folder, checkpoints, files and their schemas."""

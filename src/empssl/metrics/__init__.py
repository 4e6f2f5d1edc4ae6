"""Numbers from tensors: no files, no devices."""

"""The parts of the page about a run."""

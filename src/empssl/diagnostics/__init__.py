"""This machine: its speed, and what is wrong with it."""

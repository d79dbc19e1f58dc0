"""Adafactor for NumPy arrays."""

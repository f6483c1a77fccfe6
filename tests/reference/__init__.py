"""Slow, obvious references in plain NumPy float64, against which the tests hold the library."""

"""Timings of the package beside other ways to the same numbers."""

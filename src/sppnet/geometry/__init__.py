"""Boxes, cells and bins: all rounding of the package, in integers."""

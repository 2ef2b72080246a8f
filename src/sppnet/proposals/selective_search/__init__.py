"""Selective search, the way proposals were made for the paper."""

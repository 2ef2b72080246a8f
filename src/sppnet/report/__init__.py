"""Plots and drawings."""

"""Boxes that may hold an object, four ways."""

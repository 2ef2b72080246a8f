"""A model behind HTTP, and the page to look at it."""

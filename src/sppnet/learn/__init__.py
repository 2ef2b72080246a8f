"""Learning on plain vectors: no images, no networks."""

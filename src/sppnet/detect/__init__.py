"""Object detectors: train, detect, evaluate."""

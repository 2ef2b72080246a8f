"""How good classifiers, detectors and proposals are."""

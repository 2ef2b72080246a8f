"""Labelling whole photographs with one class each: `sppnet label --kind classify`."""

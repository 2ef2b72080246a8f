"""Many images on many machines: what `predict` and `features` do, shared out by Ray (extra `ray`)."""

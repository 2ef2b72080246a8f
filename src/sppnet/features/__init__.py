"""Feature maps of an image: convolved once, pooled as often as asked."""

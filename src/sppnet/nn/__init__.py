"""Networks: trunks, the pyramid on them, and their weights."""

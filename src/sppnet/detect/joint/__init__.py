"""Joint training of trunk, proposal head and window head, from the frozen solution on."""

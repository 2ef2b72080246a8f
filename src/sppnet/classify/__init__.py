"""Classification: train, evaluate with any views, predict."""

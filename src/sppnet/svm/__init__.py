"""Linear SVMs on pooled vectors: objective, solvers, cross-validation, hard-negative mining."""

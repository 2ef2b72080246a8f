"""What is learned on pooled vectors beside SVMs: fc layers, box regression, compression."""

"""Reading images and folders of images, the transforms on them, and batches of the result."""

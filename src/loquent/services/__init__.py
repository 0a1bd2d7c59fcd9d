"""What the product does: one file per noun, over ports, knowing no backend."""

"""One suite for each seam, and every backend of it from its table."""

"""Linear systems over the unknown band alone."""

"""A call written down, run here, and what it gives read back."""

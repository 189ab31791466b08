"""What was saved, read back: bounded, and checked before anything is built of it."""

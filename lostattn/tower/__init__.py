"""Which patches of a vision tower an image token is made of."""

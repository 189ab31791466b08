"""How a picture lies in the tokens: one family of layouts a file."""

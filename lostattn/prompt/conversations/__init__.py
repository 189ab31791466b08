"""Conversations: messages as Hugging Face writes them, and the turns of a text that was made elsewhere."""

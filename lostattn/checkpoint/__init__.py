"""What a checkpoint is loaded as: its class, its processor, its attention kernel."""

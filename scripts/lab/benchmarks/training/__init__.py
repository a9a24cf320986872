"""Time and memory of training steps with targeted dropout, and of dense ones."""

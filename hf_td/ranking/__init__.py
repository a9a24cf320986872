"""What is ranked (sites), by what (importance), and what was measured for it (activations)."""

"""Model cards: what is known of an export, and nothing else."""

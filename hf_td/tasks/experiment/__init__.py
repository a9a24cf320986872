"""Fine-tunes on a task with several seeds, and measures, records and exports the models."""

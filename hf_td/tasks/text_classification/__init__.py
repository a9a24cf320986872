"""Text classification: GLUE, and folders with files of the same columns."""

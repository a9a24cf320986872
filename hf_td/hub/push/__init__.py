"""Publishing an export on the Hugging Face Hub."""

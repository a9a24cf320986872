"""What the library can do with every model type that transformers registers, measured."""

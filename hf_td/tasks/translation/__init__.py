"""Translation by an encoder-decoder, trained from scratch or fine-tuned."""

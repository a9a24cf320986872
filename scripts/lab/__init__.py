"""The laboratory: what shows that hf_td works. It needs a clone, and hf_td never imports it."""

"""The tasks that the scripts and the command line fine-tune on, and the experiment around them."""

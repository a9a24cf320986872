"""How long training steps take with targeted dropout and without: cases, records, a page."""

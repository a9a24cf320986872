"""The kinds of layers that there are, the layout of a compact model, and classes made in place."""

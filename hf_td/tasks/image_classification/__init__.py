"""Image classification, also of the handwritten digits that scikit-learn bundles."""

"""Training: recipes, data, and the two trainers, for dense and for multi-vector retrievers."""

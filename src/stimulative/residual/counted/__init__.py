"""Layers that a model's config counts: a model of Transformers with fewer of them is one of its own."""

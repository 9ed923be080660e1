"""Reaching into a module: its mode, its calls, its slots and its caches, most of it for a while and then put back."""

"""Faults at random moments: whatever happens, no run is lost, and nothing wrong is taken for right.

``make faults`` makes all trials and prints what came of them; ``python -m faults --help`` (in ``tests``) says how a
part of it, or a single trial that failed, is repeated. The tests make a small part.
"""

"""Strange inputs, drawn from a seed: whatever is given, it is taken or refused with a message, in a moment.

``make fuzz`` runs all of it and prints what came of it, ``python -m fuzz --help`` (in ``tests``) says how a part of it,
or a single input that failed, is run again. The tests run a small part.
"""

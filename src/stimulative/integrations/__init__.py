"""Stimulative training in other libraries' trainers; each module needs its library, so nothing is imported here."""

"""Finds the subnet that fits: limits of latency, operations, parameters and accuracy, and a search where many could."""

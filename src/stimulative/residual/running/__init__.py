"""Running subnets: several on one batch, computing what they share once, or one in place; and their statistics."""

"""Finding what a model is made of: it is run on an example input, and what its modules do is looked at."""

"""What a network is for."""

from typing import Literal

Task = Literal["images", "text"]
"""To classify images, or to predict the next token of texts."""

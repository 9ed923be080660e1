"""Weights from files: read without running any code, and put into models that they fit."""

from stimulative.weights.fitting import Loaded as Loaded
from stimulative.weights.fitting import load_weights as load_weights
from stimulative.weights.place import WeightsPlace as WeightsPlace
from stimulative.weights.reading import Weights as Weights
from stimulative.weights.reading import read_weights as read_weights
from stimulative.weights.reading import sha256 as sha256

"""Data sets and the loaders that feed them to the training loop.

`load` opens a data set by its settings, `from_loaders` takes loaders you already have. Both give a `Data`.
The loaders of `load` replay: the batches of an epoch, augmentation included, depend only on the seed and the
epoch. Those of `from_loaders` do so as far as what they were given allows.
"""

from stimulative.data.dataset import Data as Data
from stimulative.data.loader import Loader as Loader
from stimulative.data.loading import load as load
from stimulative.data.own import from_loaders as from_loaders
from stimulative.data.settings import DataSettings as DataSettings

__all__ = ["Data", "DataSettings", "Loader", "from_loaders", "load"]

"""Data sets and the loaders that feed them to the training loop.

`load` opens a data set by its settings, `from_loaders` takes loaders you already have. Both give a `Data`: `ImageData`
or `TextData` (`SentenceData` for encoders). Each kind of data has settings of its own, of which `DataSettings` has all,
flat, as a recipe does.
The loaders of `load` replay: the batches of an epoch, augmentation included, depend only on the seed and the
epoch. Those of `from_loaders` do so as far as what they were given allows.
"""

from stimulative.data.augmentation import Preparation as Preparation
from stimulative.data.batches import Batch as Batch
from stimulative.data.batches import Loader as Loader
from stimulative.data.batches import derived_seed as derived_seed
from stimulative.data.batches import every as every
from stimulative.data.batches import generator_for as generator_for
from stimulative.data.batches import numbers_of as numbers_of
from stimulative.data.data_settings import DataSettings as DataSettings
from stimulative.data.data_settings import foreign_to as foreign_to
from stimulative.data.dataset import Data as Data
from stimulative.data.dataset import ImageData as ImageData
from stimulative.data.dataset import SentenceData as SentenceData
from stimulative.data.dataset import TextData as TextData
from stimulative.data.dataset import View as View
from stimulative.data.dataset import noise_images as noise_images
from stimulative.data.dataset import noise_sequences as noise_sequences
from stimulative.data.fake import FAKE as FAKE
from stimulative.data.fake import FAKE_SIZE as FAKE_SIZE
from stimulative.data.fingerprints import changes_of_data as changes_of_data
from stimulative.data.folder import FOLDER as FOLDER
from stimulative.data.folder import FOLDER_SIZE as FOLDER_SIZE
from stimulative.data.folder import ImageFolders as ImageFolders
from stimulative.data.opening import load as load
from stimulative.data.own_loaders import from_loaders as from_loaders
from stimulative.data.shard_writing import index_shards as index_shards
from stimulative.data.shard_writing import write_shards as write_shards
from stimulative.data.small_images import NATIVE_CLASSES as NATIVE_CLASSES
from stimulative.data.small_images import NATIVE_SIZE as NATIVE_SIZE

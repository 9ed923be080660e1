"""Models by name: CIFAR nets, timm, torchvision, Transformers, and factories of one's own."""

from stimulative.models.catalog import build as build
from stimulative.models.catalog import build_pretrained as build_pretrained
from stimulative.models.catalog import find as find
from stimulative.models.catalog import names as names
from stimulative.models.model_settings import PRETRAINED as PRETRAINED
from stimulative.models.model_settings import ModelSettings as ModelSettings
from stimulative.models.saved_model import SavedModel as SavedModel
from stimulative.models.sentence_encoder import SentenceEncoder as SentenceEncoder

from . import engine as engine
from .ensemble import EnsembleSegmenter as EnsembleSegmenter
from .ensemble import load as load
from .scans import Scan as Scan
from .scans import find_scans as find_scans
from .segmenter import Prediction as Prediction
from .segmenter import ScanSegmenter as ScanSegmenter

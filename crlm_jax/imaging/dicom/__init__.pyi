from .files import find_series as find_series
from .files import is_dicom as is_dicom
from .segmentation import read_segmentation as read_segmentation
from .segmentation import write_segmentation as write_segmentation
from .series import Series as Series
from .series import read_series as read_series

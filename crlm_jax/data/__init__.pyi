from .cohort.cases import Case as Case
from .cohort.cases import read_cohort as read_cohort
from .pipeline import evaluation_batches as evaluation_batches
from .pipeline import train_batches as train_batches
from .slice_cache import prepare as prepare
from .slices import Slices as Slices

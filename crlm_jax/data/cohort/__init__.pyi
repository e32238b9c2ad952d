from .cases import Case as Case
from .cases import read_cohort as read_cohort
from .cases import read_images as read_images
from .check import check_cohort as check_cohort
from .rows import CohortError as CohortError
from .rows import ImagePair as ImagePair
from .write import write_cohort as write_cohort

from .cohort import CONDITIONS as CONDITIONS
from .cohort import make_phantom as make_phantom

from .compiling import estimate as estimate
from .rows import PlanRow as PlanRow
from .scaling import make_plan as make_plan

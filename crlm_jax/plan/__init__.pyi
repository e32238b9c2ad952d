from .compiling import PlanError as PlanError
from .compiling import estimate as estimate
from .scaling import make_plan as make_plan

from .case import CaseResult as CaseResult
from .evaluate import evaluate_cases as evaluate_cases
from .evaluate import validation_dsc as validation_dsc
from .summary import summarise as summarise
from .summary import write_results as write_results
from .table import MEASURES as MEASURES
from .table import Measure as Measure
from .view import CaseView as CaseView

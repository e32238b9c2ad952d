from .experiment import run as run
from .folds import run_folds as run_folds
from .loop import Experiment as Experiment
from .loop import fit as fit
from .measuring import conclude as conclude
from .measuring import measure_best as measure_best

from .experiment import run as run
from .loop import Experiment as Experiment
from .loop import fit as fit

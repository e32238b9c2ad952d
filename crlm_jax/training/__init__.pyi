from .experiment import run as run
from .loop import fit as fit

from .evaluating import evaluate_systems as evaluate_systems
from .masks import GivenMasks as GivenMasks
from .patients import Wish as Wish
from .systems import System as System
from .systems import of_masks as of_masks
from .systems import of_run as of_run

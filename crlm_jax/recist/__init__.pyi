from .matching import Body as Body
from .matching import Match as Match
from .matching import locate_lesions as locate_lesions
from .matching import match_lesions as match_lesions
from .rules import Response as Response
from .rules import TimePoint as TimePoint
from .rules import compare as compare
from .rules import measure_time_point as measure_time_point

from .matching import Match as Match
from .rules import Response as Response
from .rules import TimePoint as TimePoint
from .rules import compare as compare
from .rules import time_point as time_point

from .scan import ExplainedLesion as ExplainedLesion
from .scan import ExplainedScan as ExplainedScan
from .scan import explain_lesion as explain_lesion
from .scan import explain_stages as explain_stages
from .scan import read_scan as read_scan

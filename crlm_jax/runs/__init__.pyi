from .finished import FinishedRun as FinishedRun
from .finished import read_finished as read_finished
from .folder import RunFolder as RunFolder
from .folder import read_run as read_run
from .log import read_log as read_log
from .results import Summary as Summary
from .rows import CaseRow as CaseRow

from .page import write_tables as write_tables
from .runs import StudyRun as StudyRun
from .runs import load_study as load_study
from .runs import run_all as run_all

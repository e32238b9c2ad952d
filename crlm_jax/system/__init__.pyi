from . import parallel as parallel
from .files import locate as locate
from .files import write_whole as write_whole
from .text import to_csv as to_csv
from .text import to_markdown as to_markdown

from .node import Node as Node
from .receive import Listening as Listening
from .rules import Rule as Rule
from .rules import read_rules as read_rules
from .send import Archive as Archive
from .spool import Spool as Spool

from .collection import ImportFailed as ImportFailed
from .folder import Record as Record
from .importing import Outcome as Outcome
from .importing import import_collection as import_collection

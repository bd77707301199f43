"""All expression operators that are plain functions of their evaluated arguments."""

from selector.localdb.arithmetic import NUMBERS, Function
from selector.localdb.array_operators import COLLECTIONS
from selector.localdb.text_operators import TEXTS

FUNCTIONS: dict[str, Function] = {**NUMBERS, **COLLECTIONS, **TEXTS}

"""What every command handler gets, and how a handler declares the fields it understands."""

from collections.abc import Callable
from dataclasses import dataclass, field

from selector.localdb.collection import Collection
from selector.localdb.cursors import Cursors
from selector.localdb.failures import CommandError, unsupported
from selector.localdb.storage import Storage

# Fields any command may carry; those that would change a result are looked at in `commands`.
COMMON = {
    "$db", "lsid", "$clusterTime", "$readPreference", "readConcern", "writeConcern", "comment", "maxTimeMS",
    "txnNumber", "startTransaction", "autocommit", "apiVersion", "apiStrict", "apiDeprecationErrors",
}  # fmt: skip


@dataclass
class Context:
    """The server's state."""

    storage: Storage
    cursors: Cursors = field(default_factory=Cursors)

    def collection(self, command: dict) -> Collection | None:
        """The collection the command names, None if it does not exist."""
        return self.storage.collections.get(namespace(command))


@dataclass(frozen=True)
class Handler:
    """A command's function, the fields it understands, and whether it may write."""

    run: Callable[[Context, dict], dict]
    fields: frozenset[str]
    writes: bool = False


def handler(run: Callable[[Context, dict], dict], fields: str = "", writes: bool = False) -> Handler:
    """A handler that understands the space-separated `fields` besides the common ones."""
    return Handler(run, frozenset(fields.split()), writes)


def namespace(command: dict) -> str:
    """`database.collection` of a command whose first field names the collection."""
    name = next(iter(command.values()))
    if not isinstance(name, str) or not name:
        raise CommandError("the collection name must be a nonempty string", 73)
    return f"{command['$db']}.{name}"


def check_options(statement: dict, allowed: frozenset[str] | set[str], where: str) -> None:
    """Refuse fields nobody looks at, collations (but for the simple one) and variables."""
    for name, value in statement.items():
        if name == "collation" and (value or {}).get("locale", "simple") == "simple":
            continue
        if name == "let" and not value:
            continue
        if name not in allowed:
            raise unsupported(f"the option '{name}' of {where}")


def check_hint(collection: Collection | None, hint: object) -> None:
    """An index hint may be obeyed or not, but must name an index."""
    if hint is None or collection is None or hint == {"$natural": 1}:
        return
    for name, index in collection.indexes.items():
        if hint == name or (isinstance(hint, dict) and list(hint.items()) == list(index.spec["key"].items())):
            return
    raise CommandError("error processing query: planner returned error: bad hint", 2)

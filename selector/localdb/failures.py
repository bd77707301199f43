"""Errors a client of the local database sees, with MongoDB's own numbers."""

_NAMES = {
    1: "InternalError",
    2: "BadValue",
    9: "FailedToParse",
    14: "TypeMismatch",
    20: "IllegalOperation",
    22: "InvalidBSON",
    26: "NamespaceNotFound",
    27: "IndexNotFound",
    28: "PathNotViable",
    40: "ConflictingUpdateOperators",
    43: "CursorNotFound",
    48: "NamespaceExists",
    52: "DollarPrefixedFieldName",
    54: "NotSingleValueField",
    59: "CommandNotFound",
    66: "ImmutableField",
    67: "CannotCreateIndex",
    68: "IndexAlreadyExists",
    73: "InvalidNamespace",
    85: "IndexOptionsConflict",
    86: "IndexKeySpecsConflict",
    171: "CannotIndexParallelArrays",
    238: "NotImplemented",
    10334: "BSONObjectTooLarge",
    11000: "DuplicateKey",
    14031: "OutOfDiskSpace",
}


class CommandError(Exception):
    """A command, or one statement of a bulk write, failed; pymongo raises OperationFailure or a subclass of it."""

    def __init__(self, message: str, code: int = 2, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def reply(self) -> dict:
        """The failed command's reply document."""
        name = _NAMES.get(self.code, f"Location{self.code}")
        return {"ok": 0.0, "errmsg": str(self), "code": self.code, "codeName": name, **self.details}

    def write_error(self, index: int) -> dict:
        """The entry of `writeErrors` for statement `index` of a bulk write."""
        return {"index": index, "code": self.code, "errmsg": str(self), **self.details}


def unsupported(what: str) -> CommandError:
    """MongoDB would do this; the local database does not, and says so rather than answer wrongly."""
    return CommandError(f"{what} is not supported by the local database; use a MongoDB server for it", 238)

"""Indexes, created once: who opens a campaign later only looks whether they are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING
from pymongo.collection import Collection


def ensure_indexes(collection: Collection[Any], indexes: Sequence[Sequence[str]], **options: Any) -> None:
    """Create those ascending indexes, each given by its fields, that the collection does not have."""
    known = {tuple(field for field, _ in index["key"]) for index in collection.index_information().values()}
    for fields in indexes:
        if tuple(fields) not in known:
            collection.create_index([(field, ASCENDING) for field in fields], **options)

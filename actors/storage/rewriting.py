"""Write an object again without a part of its content."""

from actors.storage.object_store import ObjectStore


def rewrite(store: ObjectStore, path: str, content: bytes) -> None:
    """Overwrite an object, or delete it if no content is left.

    Raises:
        OSError: The store can't be written.
    """
    if content:
        store.write(path, content)
    else:
        store.delete([path])

"""Text that others wrote, as logs and tables can hold it."""

from __future__ import annotations


def plain_text(text: str, most: int) -> str:
    r"""Return a text as valid Unicode of at most so many characters.

    JSON may hold half of a surrogate pair (`"\ud800"`), which no table and no UTF-8 can. It is written as it
    stood in JSON.
    """
    return text[:most].encode("utf-8", "backslashreplace").decode("utf-8")[:most]

"""Make tables safe to open in a spreadsheet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_FORMULA = r"^([=+\-@\t\r\n])"
"""Beginnings of texts that spreadsheets take for formulas.

Source: `https://owasp.org/www-community/attacks/CSV_Injection`.
"""


def for_spreadsheets(table: pa.Table) -> pa.Table:
    """Return a table in which texts that would be formulas begin with an apostrophe, which makes them text.

    Names of cameras come from the input, which may be anybody's. The Parquet file has them as they are.

    Args:
        table: Any table.
    """
    for number, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            escaped = pc.replace_substring_regex(table.column(number).cast(kind), _FORMULA, r"'\1")
            table = table.set_column(number, field.name, escaped)
    return table

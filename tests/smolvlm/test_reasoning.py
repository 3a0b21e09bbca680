"""The text of an explanation is read back whatever the model wrote."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from actors.smolvlm.reasoning import ReasoningWriter
from tests.support.tiny_smolvlm import make_tiny_smolvlm


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_smolvlm(tmp_path_factory.mktemp("model") / "model"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('a cap"', "a cap"),
        ("a cap", "a cap"),
        ('a \\"cap\\"', 'a "cap"'),
        ("a cap \\u00", "a cap"),
        # The grammar of a JSON string allows control characters.
        ('a\x05cap"', "a\x05cap"),
        ("a\x05cap", "a\x05cap"),
    ],
)
def test_a_text_is_read_whether_it_ended_or_was_cut(tokenizer, written, read):
    batch = ReasoningWriter(tokenizer, len(tokenizer), max_tokens=48).begin(1)
    assert batch._text(tokenizer.encode(written, add_special_tokens=False)) == read

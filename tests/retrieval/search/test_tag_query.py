"""Words of a query as tags of a model."""

import pytest

from retrieval.search.tag_query import stem


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("barks", "bark"), ("barking", "bark"), ("barked", "bark"), ("bark", "bark"),
        # a doubled consonant is one again
        ("humming", "hum"), ("hums", "hum"), ("running", "run"), ("stopped", "stop"), ("dripping", "drip"),
        # but l and s stay doubled
        ("calling", "call"), ("calls", "call"), ("hissing", "hiss"), ("hiss", "hiss"),
        ("cries", "cry"), ("crying", "cry"), ("flies", "fly"), ("fly", "fly"), ("ties", "tie"),
        ("buzzes", "buz"), ("buzz", "buz"), ("egg", "egg"), ("eggs", "egg"),
        ("bus", "bus"), ("bees", "bee"), ("ring", "ring"), ("king", "king"), ("wing", "wing"), ("red", "red"),
        ("horse", "hors"), ("horses", "hors"), ("drip", "drip"),
    ],
)  # fmt: skip
def test_a_stem_is_shared_by_the_forms_of_a_word(word, expected):
    assert stem(word) == expected

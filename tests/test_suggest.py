"""The ends of error messages."""

from zflow.suggest import did_you_mean, listed, short


def test_the_nearest_name_is_suggested_whatever_its_case():
    assert did_you_mean("Replica", ["replicas", "retries"]) == "; did you mean 'replicas'?"
    assert did_you_mean("NAME", ["name"]) == "; did you mean 'name'?"
    assert did_you_mean("colour", ["replicas"]) == ""
    assert did_you_mean(5, []) == ""


def test_lists_of_names_are_cut():
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed("abcd", limit=2) == "'a', 'b' and 2 more"


def test_values_are_shown_short_and_whatever_their_repr_does():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert short("x" * 100, limit=10) == "'xxxxxx..."
    assert short(Broken()) == "<Broken whose repr() fails>"

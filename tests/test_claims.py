"""A claim must hold, and its control must fail."""

import pytest

from mylib.claims import Claims


def test_table_lists_claims_with_their_controls(capsys):
    claims = Claims()
    claims.prove("Water is wet.", True, "Dry water.", True)
    claims.table()
    out = capsys.readouterr().out
    assert "1. Water is wet." in out and "yes" in out and "Dry water." in out


def test_a_claim_that_fails_or_a_control_that_holds_is_refused():
    with pytest.raises(AssertionError, match="does not hold: Water is dry"):
        Claims().prove("Water is dry.", False, "x", True)
    with pytest.raises(AssertionError, match="control does not fail: Anything"):
        Claims().prove("Water is wet.", True, "Anything goes.", False)

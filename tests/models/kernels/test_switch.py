"""The switch of the kernels."""

from __future__ import annotations

import pytest

from mend.errors import UserError
from mend.models.kernels import KERNELS, enabled


@pytest.mark.parametrize(("value", "on"), [("0", ()), (",".join(KERNELS[:2]), KERNELS[:2])])
def test_all_are_turned_off_or_some_left_on(monkeypatch, value, on):
    monkeypatch.delenv("MEND_KERNELS", raising=False)
    assert all(map(enabled, KERNELS))
    monkeypatch.setenv("MEND_KERNELS", value)
    assert [name for name in KERNELS if enabled(name)] == list(on)


@pytest.mark.parametrize("value", ["", "1", "activation", "activations tree_attention"])
def test_a_name_that_no_kernel_has_is_told(monkeypatch, value):
    monkeypatch.setenv("MEND_KERNELS", value)
    with pytest.raises(UserError, match="MEND_KERNELS: no kernel is named .*tree_attention"):
        enabled(KERNELS[0])

"""The forms that are compared compute the same numbers; how long each takes is for the command to say."""

from __future__ import annotations

import numpy as np
import pytest

from bench.sequence_forms import TURN, augru_forms, opened, unit_forms

pytestmark = pytest.mark.torch


def test_all_forms_of_the_second_gru_end_in_the_same_states() -> None:
    first, *others = augru_forms(7, 2 * TURN, np.random.default_rng(1))
    want = opened(first)()
    assert want.std() > 1e-2
    for other in others:
        np.testing.assert_allclose(opened(other)(), want, atol=1e-6, rtol=0, err_msg=other.name)


def test_all_cut_forms_of_the_activation_unit_give_the_same_scores() -> None:
    first, *others, _ = unit_forms(7, 23, np.random.default_rng(1))
    want = opened(first)()
    assert want.shape == (7, 23)
    for other in others:
        np.testing.assert_allclose(opened(other)(), want, atol=1e-5, rtol=0, err_msg=other.name)

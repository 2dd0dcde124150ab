"""Tests of pretraining/beam_pipeline.py."""

import pytest

from errors import UserError
from pretraining import beam_pipeline


@pytest.mark.parametrize(
  "error, message",
  [
    (
      UserError("x, line 2: bad. [while running 'Make/ParDo(f)']"),
      "x, line 2: bad.",
    ),
    (
      RuntimeError(
        "Traceback\n  raise UserError(\nerrors.UserError: x, line 2: "
        "bad. [while running 'Make/ParDo(f)']\n\n"
      ),
      "x, line 2: bad.",
    ),
    (RuntimeError("of another kind"), None),
  ],
)
def test_messages_of_beam_are_shortened(error, message):
  told = beam_pipeline._find_user_error(error)
  assert (told and str(told)) == message

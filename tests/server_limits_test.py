"""Tests of server_limits.py."""

import pytest

from errors import UserError
from serving import server_limits


def test_limits_of_a_request():
  limits = server_limits.ServerLimits(max_rows=2, max_text_bytes=4)
  limits.check_sizes([3, 4])
  with pytest.raises(UserError, match="3 rows, more than the 2"):
    limits.check_sizes([3, 4, 1])
  with pytest.raises(UserError, match="5 bytes of text, more than the 4"):
    limits.check_sizes([3, 5])

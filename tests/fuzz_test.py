"""Tests of all file readers on damaged files; see fuzzing.py."""

import fuzzing
import pytest


@pytest.mark.parametrize("kind", fuzzing.KINDS, ids=lambda kind: kind.name)
def test_damaged_files_are_read_right_or_refused(kind, tmp_path):
  tally = fuzzing.run(
    kind, str(tmp_path / "x"), range(3 if kind.is_slow else 15)
  )
  assert not tally.failures, "\n".join(tally.failures)


@pytest.mark.large
def test_many_damaged_files(capsys, tmp_path):
  lines = [f"{'':30} mutations   same  other  errors"]
  failures, total = [], 0
  for kind in fuzzing.KINDS:
    tally = fuzzing.run(kind, str(tmp_path / "x"), range(400))
    lines.append(
      f"{kind.name:30} {tally.mutations:9} {tally.same:6} "
      f"{tally.other:6} {tally.errors:7}"
    )
    failures.extend(tally.failures)
    total += tally.mutations
  with capsys.disabled():
    print("\n" + "\n".join(lines))
  assert not failures, "\n".join(failures)
  assert total > 10_000

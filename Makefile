# Everything here needs only make, Python 3.11 or newer and a C++17 compiler.
#
#   make demo    a posed capture made, compressed, measured, reported: demo-out/report.html
#   make test    the whole suite, then once more a part of it against the installed wheel
#   make lint    ruff and pyright
#   make bench   every script of bench/
#   make fuzz    every reader with mutated files, for FUZZ_SECONDS of the processor
#   make determinism   the same bits from four builds, with one and two threads
#   make kills   every verb that writes, killed KILLS times
#   make sanitize   the native tests under ASan and UBSan, the threads under TSan
#   make clean   forget the environments and the builds

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 600
KILLS ?= 200
VENV := .venv
WHEEL_VENV := .venv-wheel
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := CMakeLists.txt $(wildcard */native/*)
SOURCES := $(NATIVE) pyproject.toml $(wildcard *.py */*.py */*.pyi viewer/*)

# A checkout elsewhere on the path must not be the one that is tested.
unexport PYTHONPATH

.PHONY: demo test bench lint clean test-wheel fuzz kills determinism sanitize
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/fieldpress demo -o demo-out --overwrite

test: $(VENV)/installed $(VENV)/dev test-wheel
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The wheel is what users get, and what an editable install hides: a root file that is missing
# from pyproject's table still imports in the checkout. So a few tests run against the wheel,
# in an environment and a directory of their own.
test-wheel: $(WHEEL_VENV)/installed $(VENV)/dev
	@echo "== the installed wheel, from another directory"
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && cd "$$scratch" && \
	"$(CURDIR)/$(WHEEL_VENV)/bin/fieldpress" --version && \
	"$(CURDIR)/$(WHEEL_VENV)/bin/python" -c "import fieldpress, sys; \
	sys.exit(0 if '/$(WHEEL_VENV)/' in fieldpress.__file__ else fieldpress.__file__)" && \
	"$(CURDIR)/$(WHEEL_VENV)/bin/python" -m pytest -q -p no:cacheprovider -m wheel \
	  "$(CURDIR)/tests/test_cli.py" "$(CURDIR)/tests/test_package.py"

bench: $(VENV)/installed
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

fuzz: $(VENV)/installed $(VENV)/dev
	$(BIN)/python bench/fuzz.py --seconds $(FUZZ_SECONDS)

kills: $(VENV)/installed $(VENV)/dev
	$(BIN)/python bench/kills.py --kills $(KILLS)

determinism: $(VENV)/installed $(VENV)/dev
	$(BIN)/python bench/determinism.py --scenes --name determinism_ci

sanitize: $(VENV)/installed $(VENV)/dev
	PYTHON=$(CURDIR)/$(BIN)/python bench/sanitize.sh

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) $(WHEEL_VENV) build dist demo-out .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The pinned torch comes first: the range in pyproject.toml would pull the newest and largest build.
$(VENV)/base: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "pip>=25.1"
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt --group build
	@touch $@

$(VENV)/installed: $(VENV)/base $(NATIVE)
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[images]"
	@touch $@

$(VENV)/dev: $(VENV)/base
	$(PIP) install -c constraints.txt --group dev
	@touch $@

# A second environment that lends the first one's packages by path (so that torch is not
# installed twice) but not its editable fieldpress, whose import hook a plain path does not run.
$(WHEEL_VENV)/installed: $(VENV)/installed $(SOURCES)
	rm -rf dist && $(PIP) wheel --no-deps --no-build-isolation -w dist .
	$(PYTHON) -m venv --without-pip $(WHEEL_VENV)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > $$($(WHEEL_VENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/lent.pth
	$(PIP) --python $(WHEEL_VENV)/bin/python install --no-deps --force-reinstall dist/*.whl
	@touch $@

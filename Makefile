# The lab, its tests and its builds, one word each:
#   make lab        set everything up, then open JupyterLab
#   make test       every check and test but the long searches
#   make test-all   those too, and the fast tests with the lowest and the newest versions allowed
#   make test-processors  the fast tests as on two older processors, with one and with two threads
#   make lint       ruff and mypy only
#   make notebooks  execute notebooks/src, write notebooks/*.ipynb  (one: NAMES=00_start_here)
#   make bench      the measured figures
#   make gpu        measure on an NVIDIA GPU, without pip: OUT=dir MINUTES=9 PHASES=check,sweep,layer,train
#   make gpu-verify the kernels' tests and the memory checker there
#   make clean      remove the environments and all caches
# Options: make lab PYTHON=python3.12 ARGS="--port 9000"; make test WORKERS=4 on more cores

VENV := .venv
# -P keeps this folder off sys.path, where transformers would take kernels/ for another package.
PY := $(VENV)/bin/python -P
PIP := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
AGAIN := || { echo "The installation stopped here; 'make $(MAKECMDGOALS)' goes on." >&2; exit 1; }

.PHONY: help lab test test-all test-lowest test-newest test-processors lint notebooks bench gpu gpu-verify gpu-links clean
.DELETE_ON_ERROR:
help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

lab: $(VENV)/.lab
	@$(PY) -m moeviz lab $(ARGS)

# One thread a process: two workers with two threads each only get into each other's way.
WORKERS := 2
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadgroup

test: lint
	@$(PY) notebooks/build.py --check
	@only="not slow"; PYTHONPATH=benchmarks $(PY) -c 'import lab_browser as b; b.find_chromium()' 2>/dev/null || { \
	  echo "No Chromium here: the browser tests are left out (Debian: apt install chromium)."; \
	  if [ -n "$$CI" ]; then echo "CI insists on them." >&2; exit 1; fi; only="not slow and not browser"; }; \
	$(PYTEST) -m "$$only" $(ARGS)

test-all: test
	@$(PYTEST) -m slow $(ARGS)
	@$(MAKE) test-lowest test-newest

# With the lowest and the newest versions that requirements.txt allows, on Python 3.12 and 3.13.
# Others: make test-lowest LOWEST_PYTHON=/path/to/python3.12
test-lowest: END_PYTHON = $(LOWEST_PYTHON)
test-newest: END_PYTHON = $(NEWEST_PYTHON)
test-lowest test-newest: test-%: $(VENV)/.test
	@sh tests/make_versions_env.sh $* $(END_PYTHON) $(AGAIN)
	@OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -P -m pytest -n 2 --dist loadgroup \
	  -m "not slow and not browser and not notebook" $(ARGS)

# Without AVX2, then with AVX2 and without AVX-512: sums are added up in another order each time.
FAST = --dist loadgroup -m "not slow and not browser and not notebook" $(ARGS)
test-processors: $(VENV)/.test
	@OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
	  ONEDNN_MAX_CPU_ISA=SSE41 $(PY) -m pytest -n $(WORKERS) $(FAST)
	@OMP_NUM_THREADS=2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  ONEDNN_MAX_CPU_ISA=AVX2 $(PY) -m pytest -n 1 $(FAST)

lint: $(VENV)/.test
	@$(PY) -m ruff check && $(PY) -m ruff format --check && $(PY) -m mypy

notebooks: $(VENV)/.test
	@$(PY) notebooks/build.py $(NAMES)

bench: $(VENV)/.test
	@$(PY) -m moeviz bench $(ARGS)

# A plain tree on a machine that has torch, triton, pytest and hypothesis: nothing is installed, and
# what the caller has on PYTHONPATH stays. The root stays off sys.path, see above: an empty entry
# would be the root. What comes first is what a GPU alone can tell; the tests are gpu-verify's, on the
# same machine afterwards.
GPU_PYTHON ?= python3
GPU_TESTS := $(addprefix tests/test_,kernels.py kernels_experts.py kernels_routers.py experts.py backend.py)
OUT ?= build/gpu/results
MINUTES ?= 9
PHASES ?= check,sweep,layer,train

gpu gpu-verify: export PYTHONPATH := $(CURDIR)/build/gpu:$(CURDIR)/benchmarks$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu gpu-verify: export PYTHONUNBUFFERED := 1
gpu gpu-verify: gpu-links
gpu:
	@$(GPU_PYTHON) -P -m moeviz bench gpu --out "$(OUT)" --minutes $(MINUTES) --phases $(PHASES) $(ARGS)

# At most 220 s: the kernels' tests, the memory checker, the largest shapes again with the cuts that
# the sweep has chosen, where there was one. Each part has its seconds, and goes on after the others'
# failures. An interrupted pytest says what it has found until then.
gpu-verify:
	@mkdir -p "$(OUT)"; py="$(GPU_PYTHON) -P"; export MOEVIZ_TUNED=$(wildcard build/gpu/tuned.json); \
	workers=$$($$py -c 'import xdist; print("-n 14")' 2>/dev/null); \
	within() { name=$$1; limit=$$2; signal=$$3; shift 3; \
	  timeout $$signal -k 10 $$limit "$$@"; code=$$?; case $$code in 0) ;; \
	  124|137) echo "FAILED: $$name took longer than $$limit s" ;; \
	  *) echo "FAILED: $$name, exit code $$code" ;; esac; }; \
	{ within "the tests" 100 "--foreground -s INT" \
	    env OMP_NUM_THREADS=2 CUBLAS_WORKSPACE_CONFIG=:4096:8 \
	    $$py -m pytest -q --tb=short --maxfail=40 $$workers $(GPU_TESTS); \
	  within "the memory checker" 50 "-s TERM" $$py -m moeviz bench sanitize --seconds 40; \
	  within "the layer" 60 "-s TERM" $$py -m moeviz bench layer --budget 25 \
	    --shapes OLMoE-32768,Qwen3-32768,Mixtral-8192 --json "$(OUT)/layer_again.json"; \
	} 2>&1 | tee "$(OUT)/verify.txt"; \
	if grep "^FAILED: " "$(OUT)/verify.txt" >/dev/null; then exit 1; fi

gpu-links:
	@mkdir -p build/gpu
	@ln -sfn ../../moeviz build/gpu/moeviz
	@ln -sfn ../../kernels/moeviz_kernels build/gpu/moeviz_kernels

clean:
	rm -rf $(VENV) $(VENV)-* build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@chosen=; seen=; for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  case $$version in 3.11|3.12|3.13) chosen=$$python; break;; esac; \
	  seen="$$seen $$python is $$version,"; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "moeviz needs Python 3.11, 3.12 or 3.13:$${seen:- no python was found,} so please install" \
	    "one, or name it: make lab PYTHON=/path/to/python" >&2; exit 1; fi; \
	if ! $$chosen -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$chosen cannot make a virtual environment, its venv module is missing" \
	    "(Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; fi; \
	echo "[1/4] A virtual environment in $(VENV) with $$chosen, Python $$version: up to half a minute"; \
	$$chosen -m venv --clear $(VENV) $(AGAIN)

# The stamps come last, so that an installation that failed or was interrupted goes on next time.
$(VENV)/.lab: requirements.txt constraints.txt pyproject.toml setup.py | $(VENV)/bin/python
	@echo "[2/4] PyTorch: 0.2 GB for the CPU build, some 3 GB with CUDA (Linux): 1 to 10 minutes"
	@$(PIP) torch $(AGAIN)
	@echo "[3/4] JupyterLab, widgets and plotting: some 100 packages, 0.3 GB: 2 to 5 minutes"
	@$(PIP) --requirement requirements.txt $(AGAIN)
	@echo "[4/4] moeviz itself, from this folder: some seconds"
	@$(PIP) --quiet --no-deps --editable . $(AGAIN)
	@touch $@

$(VENV)/.test: $(VENV)/.lab tests/make_widgets7_env.sh tests/make_triton36_env.sh
	@echo "[tests] pytest, Playwright, ruff, mypy, and two more environments, with ipywidgets 7 and Triton 3.6: 2 to 4 minutes"
	@$(PIP) --quiet --editable '.[test]' $(AGAIN)
	@{ sh tests/make_triton36_env.sh $(VENV)/bin/python $(VENV)-triton36 & \
	  sh tests/make_widgets7_env.sh $(VENV)/bin/python $(VENV)-widgets7 && wait $$!; } $(AGAIN)
	@touch $@

# Every command of the project; `make` alone lists them. Each sets up what it needs and skips what already stands.

.DEFAULT_GOAL := help
.PHONY: help serve test setup-test check bench chaos docs format model chromium promtool lock clean

# The first Python on the path that is new enough; say PYTHON=… for another one.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

VENV := .venv
RUN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check --no-input install -qq
LOCKED := --require-hashes --only-binary :all: -r

# Where the model is, as the program finds it.
MODELS := $(RUN)/python -c 'from loquent.settings.environment import load_settings; print(load_settings().weights_dir.absolute())'

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

serve: model  ## Set up what is missing, then serve (HOST, PORT and LOQUENT_DATA_DIR are honoured)
	@exec $(RUN)/loquent serve

# Hundreds of processes start from the same files: compiled once, whatever the machine's own habit is.
test: export PYTHONDONTWRITEBYTECODE =
test: setup-test  ## Set up what is missing, then run every test and measure coverage (ARGS="-k jobs" runs some)
	@echo "==> Running the tests"
	@rm -f .coverage .coverage.*
	@LOQUENT_MODELS_DIR="$$($(MODELS))" $(RUN)/python -m pytest $(PYTEST) $(if $(ARGS),$(ARGS),$(COVERED))
	@$(if $(ARGS),true,$(RUN)/coverage report --fail-under=95)

setup-test: model $(VENV)/.dev $(VENV)/.torch .venv-ministack/.ready .tools/rabbitmq/.ready chromium promtool  ## Set up all that the tests need, without running them

check: $(VENV)/.dev  ## Check lint, form, types, floors and that the generated pages are fresh
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python docs/generate.py --check

bench: $(VENV)/.torch  ## Measure Loquent beside a bare proxy and the upstream itself
	$(RUN)/python -m bench $(ARGS)

chaos: setup-test  ## Kill and freeze servers, workers, database and broker under jobs and uploads: none may be lost, none done twice
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.chaos --jobs 2000 --kills 200 --freezes 30 $(ARGS)
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.uploads --uploads 300 $(ARGS)
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.upgrade --rounds 2
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.flood --jobs 10000 --seconds 60
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.disk
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.outages $(ARGS)
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.replicas --silence 60
	PYTHONPATH="$(CURDIR)/src:$(CURDIR)/tests" $(RUN)/python -m journeys.rolling
	$(RUN)/python -m pytest -m long

docs: $(VENV)/.dev  ## Write the generated pages: the map, the settings, the routes, .env.example
	$(RUN)/python docs/generate.py

format: $(VENV)/.dev  ## Mend what lint can mend, and lay out the code
	$(RUN)/ruff check --fix
	$(RUN)/ruff format

model: $(VENV)/.serve  ## Fetch and verify the embedded model, where it is not here yet
	@$(RUN)/loquent models pull --missing

lock: .venv-lock/.ready  ## Resolve the lock files anew (UPGRADE=1 takes the newest versions)
	$(LOCK) pyproject.toml requirements/serve.in --extra llama --extra documents --extra ocr \
		--extra postgresql --extra redis --extra celery --extra s3 -o requirements/serve.lock
	$(LOCK) pyproject.toml requirements/serve.in --extra all --group dev -c requirements/serve.lock \
		--override requirements/overrides.in -o requirements/dev.lock
	$(LOCK) requirements/ministack.in -o requirements/ministack.lock

clean:  ## Remove what the commands made, save your data
	rm -rf .venv .venv-ministack .venv-lock .coverage .coverage.* htmlcov build dist src/*.egg-info
	rm -rf .tools .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# --- what the commands above stand on; each file is made once, and again when its lock changes -----------------------

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Loquent needs Python 3.11 or newer and found none. Install one, or name it: make serve PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Loquent needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1)." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment (no venv or ensurepip). On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "==> Making a virtual environment in $(VENV)"
	@rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV)

$(VENV)/.serve: $(VENV)/bin/python requirements/serve.lock pyproject.toml
	@echo "==> Installing Loquent and its locked dependencies (about a minute)"
	@$(RUN)/python $(PIP) $(LOCKED) requirements/serve.lock
	@$(RUN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve requirements/dev.lock
	@echo "==> Installing the locked tools for tests and checks (about a minute)"
	@$(RUN)/python $(PIP) --no-deps $(LOCKED) requirements/dev.lock
	@touch $@

# PyTorch for the processor alone: a wheel that lies here already, otherwise from PyTorch's own index of such wheels.
# TORCH=none leaves it out, and the tests of the engine that needs it, and says so; without it they fail.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
$(VENV)/.torch: $(VENV)/.dev
ifeq ($(TORCH),none)
	@echo "==> TORCH=none: the tests of the engine transformers are left out"
else
	@echo "==> Installing PyTorch for the processor, which some tests and the bench need (200 MB)"
	@$(RUN)/python $(PIP) --no-deps --no-index $(TORCH) 2>/dev/null || \
		$(RUN)/python $(PIP) --no-deps --only-binary :all: --index-url $(TORCH_INDEX) $(TORCH)
	@touch $@
endif

# The stand-in for DynamoDB and SQS pins libraries that ours must not share.
.venv-ministack/.ready: $(VENV)/bin/python requirements/ministack.lock
	@echo "==> Installing the stand-in for DynamoDB and SQS into .venv-ministack"
	@rm -rf .venv-ministack && $(RUN)/python -m venv .venv-ministack
	@.venv-ministack/bin/python $(PIP) $(LOCKED) requirements/ministack.lock
	@touch $@

# RabbitMQ and its Erlang out of Debian's packages, into a folder: installed, they would run as a service.
ERLANG := $(addprefix erlang-,asn1 base crypto eldap inets mnesia os-mon parsetools public-key runtime-tools ssl \
	syntax-tools tools xmerl)

.tools/rabbitmq/.ready:
	@if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then \
		echo "==> Fetching RabbitMQ, on which some tests run, from Debian's packages into .tools (32 MB)" && \
		rm -rf .tools/rabbitmq && mkdir -p .tools/rabbitmq/packages .tools/apt/lists/partial .tools/apt/archives/partial && \
		cd .tools/rabbitmq/packages && { $(APT) download rabbitmq-server $(ERLANG) 2>/dev/null || \
			{ $(APT) $(OWN_LISTS) update && $(APT) $(OWN_LISTS) download rabbitmq-server $(ERLANG); }; } && \
		for package in *.deb; do dpkg-deb -x "$$package" .. || exit 1; done && cd .. && rm -rf packages && touch .ready; \
	elif ! command -v rabbitmq-server >/dev/null; then \
		echo "==> No Debian packages here, so the tests on RabbitMQ will fail" >&2; \
	fi

.venv-lock/.ready: $(VENV)/bin/python
	@echo "==> Installing uv, which resolves the locks, into .venv-lock"
	@rm -rf .venv-lock && $(RUN)/python -m venv .venv-lock
	@.venv-lock/bin/python $(PIP) uv
	@touch $@

# uv alone can write one lock for every platform; no host names and no local builds get into it.
LOCK = .venv-lock/bin/uv --no-config --quiet pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --only-binary :all: --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# BROWSER=none leaves the browser tests out, and says so; without it they fail where there is no Chromium.
nothing :=
LEFT_OUT = $(strip long $(if $(filter none,$(BROWSER)),browser) $(if $(filter none,$(TORCH)),torch))
# Most of the time a test waits for a server or a clock: so there is one process more than most machines have cores for.
PYTEST = --numprocesses 4 --dist loadgroup -m "not ($(subst $(nothing) $(nothing), or ,$(LEFT_OUT)))"
COVERED := --cov --cov-report=

chromium:  ## Install Chromium for the tests, where that can be done from here
ifeq ($(BROWSER),none)
	@echo "==> BROWSER=none: the tests that drive a browser are left out"
else
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "==> Installing Chromium, which some tests drive" && apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
		else \
			echo "==> No Chromium on the path, so the browser tests will fail. Install it (Debian: apt-get install chromium) or say BROWSER=none" >&2; \
		fi; }
endif

promtool: .tools/bin/promtool  ## Fetch promtool, by which the tests check alerts and dashboards, where it can be had from here

# A program that tests run: the one on the path, else the one of a Debian package, taken out of it without root.
# Another program needs a line of its own here, and its name behind setup-test.
package_promtool := prometheus

APT := apt-get -qq -o APT::Sandbox::User=root
OWN_LISTS := -o Dir::State::Lists=$(CURDIR)/.tools/apt/lists -o Dir::Cache=$(CURDIR)/.tools/apt

.tools/bin/%:
	@mkdir -p .tools/bin .tools/apt/lists/partial .tools/apt/archives/partial
	@if found=$$(command -v $*); then ln -sf "$$found" $@; \
	elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then \
		echo "==> Fetching $* from the Debian package $(package_$*) into .tools" && cd .tools/apt && rm -f *.deb && \
		{ $(APT) download $(package_$*) 2>/dev/null || \
			{ $(APT) $(OWN_LISTS) update && $(APT) $(OWN_LISTS) download $(package_$*); }; } && \
		dpkg-deb --fsys-tarfile $(package_$*)_*.deb | tar -x --wildcards --strip-components 3 -C ../bin './usr/*bin/$*' && \
		touch ../bin/$* && cd .. && rm -rf apt; \
	else \
		echo "==> No $* on the path, so the tests that run it will fail. Install it (Debian: apt-get install $(package_$*))" >&2; \
	fi

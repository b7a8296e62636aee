# The two commands for a fresh Debian machine: make run, make test. Both install what they need,
# as root or with sudo.

PYTHON = /usr/bin/python3
PATH := /usr/sbin:/sbin:$(PATH)
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
BIN = .venv/bin

BUILD_PACKAGES = python3-venv
RUN_PACKAGES = $(BUILD_PACKAGES) dnsmasq-base bind9-dnsutils procps
TEST_PACKAGES = $(RUN_PACKAGES) tftp-hpa tftpd-hpa rsyslog bsdutils iproute2 man-db groff

.PHONY: build run test check unit clean

build: .venv/built

.venv/built: pyproject.toml
	@tools/need $(BUILD_PACKAGES)
	$(PYTHON) -m venv --system-site-packages .venv
	$(BIN)/pip -q install -e '.[dev]'
	@touch $@

run: build
	@tools/need $(RUN_PACKAGES)
	@tools/demo

# What needs network namespaces runs as root; the rest as whoever you are.
test: build
	@tools/need $(TEST_PACKAGES)
	$(BIN)/pytest tests/unit tests/edge tests/test_architecture.py $(PYTEST)
	$(SUDO) env PATH="$(PATH)" $(BIN)/pytest -p no:cacheprovider tests/peers $(PYTEST)

check: build
	$(BIN)/ruff format --check service tests bench
	$(BIN)/ruff check service tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit --cov=udpproxy.config --cov=udpproxy.policy \
		--cov=udpproxy.session --cov=udpproxy.supervisor.lifecycle --cov-branch \
		--cov-fail-under=100 $(PYTEST)

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The two commands for a fresh Debian machine: make run, make test. Both install what they need,
# as root or with sudo.

PYTHON = /usr/bin/python3
PATH := /usr/sbin:/sbin:$(PATH)
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
BIN = .venv/bin

BUILD_PACKAGES = python3-venv python3-dev gcc libc6-dev python3-systemd python3-dbus-next python3-sdnotify
RUN_PACKAGES = $(BUILD_PACKAGES) dnsmasq-base bind9-dnsutils procps
TEST_PACKAGES = $(RUN_PACKAGES) tftp-hpa tftpd-hpa rsyslog bsdutils logrotate iproute2 nftables man-db groff \
	dnsdist pdns-recursor keepalived snmp snmpd unbound dnsperf

DEB_PACKAGES = build-essential debhelper dh-python pybuild-plugin-pyproject python3-all-dev cython3 \
	python3-setuptools python3-pytest python3-hypothesis python3-dnspython fakeroot

.PHONY: build run test test-long weather autopkgtest check deb install uninstall bench bench-full clean

build: .venv/built

NATIVE = setup.py $(wildcard service/udpproxy/proxy/engine/*.pxi service/udpproxy/proxy/engine/*.pyx service/udpproxy/proxy/engine/relay/*)

.venv/built: pyproject.toml $(NATIVE)
	@tools/need $(BUILD_PACKAGES)
	$(PYTHON) -m venv --system-site-packages .venv
	$(BIN)/pip -q install -e '.[dev]'
	@touch $@

run: build
	@tools/need $(RUN_PACKAGES)
	@tools/demo

AS_ROOT = $(SUDO) env PATH="$(PATH)" PYTHON_ENGINE_ONLY="$(PYTHON_ENGINE_ONLY)"

test: build
	@tools/need $(TEST_PACKAGES)
	@tools/test $(PYTEST)

# Hours: floods of a minute in every variant, a hundred thousand lies of each child, ten thousand
# damages of the session table, a million commands and calls by luck, ten minutes of traffic under
# the sanitizers, and on each release what `make test` tries on one alone.
LONG = FLOOD_SECONDS=60 COMMANDS=200 UDPPROXY_LIES=100000 TABLE_DAMAGES=10000 BORDERS_REQUESTS=1000000 SOAK_SECONDS=600

test-long: build
	@tools/need $(TEST_PACKAGES)
	$(AS_ROOT) $(LONG) tests/alone long tests/reachable $(BIN)/pytest -p no:cacheprovider -s -m "long or not long" \
		tests/edge/test_run_flood.py tests/edge/test_lying_children.py \
		tests/edge/test_inherited_table.py tests/edge/test_run_borders.py \
		tests/edge/test_bus_storm.py tests/edge/test_daemon_races.py $(PYTEST)
	$(AS_ROOT) $(LONG) tools/sanitize -s tests/edge/test_native_soak.py \
		tests/edge/test_inherited_table.py::test_random_damage_costs_what_it_touches
	$(AS_ROOT) tools/sanitize --thread 60
	$(SUDO) tests/system/install-tools.sh
	$(AS_ROOT) $(BIN)/python tests/system/prepare.py
	$(AS_ROOT) tests/side-by-side.sh system --release d12 d13 \
		$(BIN)/pytest -p no:cacheprovider tests/system -m "one_release or long" $(PYTEST)

# The basic promise through every weather, and the matrix of them (docs/field.md); with WEATHER=WORD
# only those.
weather: build
	@tools/need $(TEST_PACKAGES)
	$(AS_ROOT) tests/alone weather tests/reachable $(BIN)/pytest -q -p no:cacheprovider \
		-m "long or not long" tests/edge/test_weather.py \
		$(if $(WEATHER),-k '$(WEATHER)') $(PYTEST)

# debian/tests as Debian runs them, in a machine of each release; it needs apt's network.
autopkgtest: build
	$(SUDO) tests/system/install-tools.sh
	$(SUDO) env PATH="$(PATH)" $(BIN)/python tests/system/autopkgtest.py

check: build
	$(BIN)/ruff format --check service tests bench
	$(BIN)/ruff check service tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	tests/alone unit $(BIN)/pytest tests/unit --cov=udpproxy.config --cov=udpproxy.proxy.config --cov=udpproxy.proxy.policy \
		--cov=udpproxy.proxy.session --cov=udpproxy.supervisor.lifecycle --cov-branch \
		--cov-fail-under=100 $(PYTEST)

# For the release of this machine; the tests build for each release in a container.
deb:
	@tools/need $(DEB_PACKAGES) $(BUILD_PACKAGES)
	tools/deb

install:
	$(SUDO) tools/install

uninstall:
	$(SUDO) tools/install --remove

bench: build
	@tools/need gcc libc6-dev nginx libnginx-mod-stream iproute2
	$(SUDO) $(BIN)/python bench/run.py --short --fetch

bench-full: build
	@tools/need gcc libc6-dev nginx libnginx-mod-stream iproute2
	$(SUDO) $(BIN)/python bench/run.py --full --fetch

clean:
	$(SUDO) rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

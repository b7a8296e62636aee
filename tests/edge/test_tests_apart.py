"""Two runs of the tests on one machine: each has a temporary root and ports of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from host import free_port

TOP = Path(__file__).parents[2]
ALONE = TOP / "tests" / "alone"
PORT = "from host import free_port; print(free_port() // 1000, flush=True); input()"
TEST = """
import os
def test_place(tmp_path):
    os.write(2, f"{tmp_path}\\n".encode())
    assert os.environ.get("FAIL") is None
"""


def run(tmp_path: Path, **environment: str) -> tuple[int, Path, str]:
    """A pytest of its own: its status, its temporary root, and the line about it."""
    (tmp_path / "test_one.py").write_text(TEST)
    results = tmp_path / "results"
    results.unlink(missing_ok=True)
    done = subprocess.run(
        [ALONE, "one", sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider",
         "-c", os.devnull, "--rootdir", tmp_path, tmp_path / "test_one.py"],
        # A place of its own: while this suite waits for it, it needs no turn of the machine's.
        env=os.environ | {"RESULTS": str(results), "TEST_LOCK": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    (place,) = [Path(line) for line in done.stderr.splitlines() if line.startswith("/var/tmp/")]
    return done.returncode, place.parents[1], results.read_text()


def test_a_root_of_its_own_that_goes_when_all_is_green(tmp_path: Path) -> None:
    places = set()
    for _ in range(2):
        status, place, said = run(tmp_path)
        assert (status, said) == (0, "one          passed  1 passed, 0 failed, 0 skipped\n")
        assert not place.exists()
        places.add(place)
    assert len(places) == 2


def test_a_root_that_stays_when_something_failed(tmp_path: Path) -> None:
    status, place, said = run(tmp_path, FAIL="yes")
    try:
        assert status == 1
        assert said.startswith("one          FAILED  0 passed, 1 failed, 0 skipped (status 1, ")
        assert str(place) in said
        assert place.stat().st_mode & 0o777 == 0o755
    finally:
        subprocess.run(["rm", "-r", place], check=True)


def test_no_more_at_once_than_processors(tmp_path: Path) -> None:
    count = int(subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout)
    slots = [tmp_path / "udpp.slots" / str(number) for number in range(1, count + 1)]
    with contextlib.ExitStack() as stack:
        for slot in slots:
            slot.mkdir(parents=True)
            stack.enter_context(subprocess.Popen(["flock", slot, "sleep", "2"]))
        begun = time.monotonic()
        status, _, _ = run(tmp_path)
        assert time.monotonic() - begun > 1
    assert status == 0


def test_ports_of_its_own() -> None:
    with contextlib.ExitStack() as stack:
        slices = []
        for _ in range(4):
            process = subprocess.Popen(
                [sys.executable, "-c", PORT],
                env=os.environ | {"PYTHONPATH": str(TOP / "tests")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            assert process.stdout is not None
            slices.append(int(process.stdout.readline()))
        assert len(set(slices)) == 4
        for number in slices:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as third, pytest.raises(OSError):
                third.bind(f"\0udp-proxy-test-ports-{number - 12}")


def test_no_port_twice() -> None:
    """Nor its neighbour, which some take with it."""
    ports = [free_port() for _ in range(200)]
    assert len({*ports, *(port + 1 for port in ports)}) == 400


def test_parts_are_the_whole() -> None:
    """Whatever is in no part would never run."""

    def chosen(*words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--co", "-p", "no:cacheprovider",
             TOP / "tests" / "peers", *words],
            env={key: value for key, value in os.environ.items() if key != "PARTS_CLAIMED"},
            capture_output=True,
            text=True,
            check=True,
            cwd=TOP,
        )  # fmt: skip
        return [line for line in done.stdout.splitlines() if "::" in line]

    parts = [chosen("--part", f"{number}of3") for number in (1, 2, 3)]
    assert all(parts)
    assert sorted(itertools.chain(*parts)) == sorted(chosen())


def test_parts_at_the_same_time_are_the_whole(tmp_path: Path) -> None:
    """Each file once, by whichever comes first."""
    names = ("test_lock", "test_wire", "test_verbs", "test_clean_up", "test_costly")
    files = [TOP / "tests" / "unit" / f"{name}.py" for name in names]
    environment = {key: value for key, value in os.environ.items() if key != "PARTS_CLAIMED"}

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider",
                *map(str, files), *words]  # fmt: skip

    def passed(output: str) -> list[str]:
        return [line for line in output.splitlines() if line.startswith("PASSED ")]

    whole = subprocess.run(
        command(f"--basetemp={tmp_path / 'whole'}"),
        capture_output=True, text=True, check=True, cwd=TOP, env=environment,
    )  # fmt: skip
    (tmp_path / "claims").mkdir()
    environment["PARTS_CLAIMED"] = str(tmp_path / "claims")
    parts = [
        subprocess.Popen(
            command("--part", part, f"--basetemp={tmp_path / part}"),
            stdout=subprocess.PIPE, text=True, cwd=TOP, env=environment,
        )
        for part in ("1of2", "2of2")
    ]  # fmt: skip
    outputs = [part.communicate()[0] for part in parts]
    assert [part.returncode for part in parts] in ([0, 0], [0, 5], [5, 0])
    both = [*passed(outputs[0]), *passed(outputs[1])]
    assert sorted(both) == sorted(passed(whole.stdout))
    assert len(list((tmp_path / "claims").iterdir())) == len(files)


SUITES = ("unit", "edge-1of2", "edge-2of2", "edge-rest", "peers", "system-d12", "system-d13")


@pytest.mark.parametrize("broken", ["", "edge-2of2", "edge-rest", "system-d13", "install-tools.sh"])
def test_every_suite_runs_and_one_summary_tells(tmp_path: Path, broken: str) -> None:
    """Of a checkout in which pytest only says which suite it is for. Another run, which measures
    no time, is waited for."""
    for name in ("tools/test", "tests/alone", "tests/side-by-side.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((TOP / name).read_bytes())
        (tmp_path / name).chmod(0o755)
    suite = '<testsuites><testsuite errors="0" failures="%s" skipped="1" tests="4"/></testsuites>'
    fake = f"""#!/bin/sh
for word; do case $word in
    --basetemp=*) name=${{word##*/}} ;;
    --junit-xml=*) file=${{word#*=}} ;;
esac; done
failed=0
[ "$name" != "{broken}" ] || failed=1
printf '{suite}' $failed >"$file"
echo "ran $name"
exit $failed
"""
    scripts = {
        ".venv/bin/pytest": fake,
        ".venv/bin/python": "#!/bin/sh\n",
        "tests/reachable": '#!/bin/sh\nexec "$@"\n',
        "tests/system/install-tools.sh": "#!/bin/sh\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            "#!/bin/sh\nexit 1\n" if name.endswith(broken or "-") else text
        )
        (tmp_path / name).chmod(0o755)
    # The other place is locked by the run that we are in.
    with subprocess.Popen(["flock", "--shared", tmp_path, "sleep", "0" if broken else "4"]):
        done = subprocess.run(
            ["timeout", "60", str(tmp_path / "tools/test")],
            env=os.environ | {"TEST_LOCK": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert broken or "waiting for the other test runs on this machine\n" in done.stdout
    summary = done.stdout.partition("== all suites\n")[2].splitlines()
    left = [line.rpartition(" files in ")[2].rstrip(")") for line in summary if "files in" in line]
    for place in left:
        subprocess.run(["rm", "-r", place], check=True)
    assert "ran unit" in done.stdout
    assert "ran peers" in done.stdout
    if broken == "install-tools.sh":
        assert summary[5:] == ["system       FAILED  did not run", "failed: system"]
    else:
        became = {line.split()[0]: line.split()[1] for line in summary[:-1]}
        assert became == {name: "FAILED" if name == broken else "passed" for name in SUITES}
        assert summary[-1] == (f"failed: {broken.partition('-')[0]}" if broken else "all passed")
    assert done.returncode == (1 if broken else 0)

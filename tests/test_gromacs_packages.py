"""The fetch of GROMACS' packages, with an apt that makes its packages itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from alchemi_bridge.engines import gromacs_packages as packages
from alchemi_bridge.errors import ConfigurationError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")

#: An apt whose only package has all programs, and a loader that starts what it is given.
APT = r"""#!/bin/sh
echo "$@" >> {calls}
for word; do
    case $word in
        -oDir::Cache=*) cache=${{word#*=}} ;;
        -oDir::Etc::sourcelist=*) cat "${{word#*=}}" >> {calls} ;;
        update) {update} ;;
        indextargets) printf '%s\n' '{targets}' ;;
        install) installs=1 ;;
    esac
done
[ -z "$installs" ] || dpkg-deb --build {tree} "$cache/archives/gromacs.deb"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts an apt in the path; returns the file with what it was asked."""
    tree = tmp_path / "tree"
    for name, text in {
        "DEBIAN/control": "Package: gromacs\nVersion: 1\nArchitecture: amd64\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: none\n",
        "usr/bin/gmx": "#!/bin/sh\necho gmx $* $GMXLIB\n",
        "usr/bin/gmx_d": "#!/bin/sh\necho gmx_d $*\n",
        "usr/bin/gmx_mpi": "#!/bin/sh\necho gmx_mpi $*\n",
        "usr/bin/prterun": "#!/bin/sh\necho prterun $* $PRTE_PREFIX\n",
        "usr/lib64/ld-linux-x86-64.so.2": '#!/bin/sh\nshift 2\nexec "$@"\n',
        "usr/share/doc/gromacs/README": "large\n",
    }.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o555)
    (tree / "DEBIAN").chmod(0o755)

    def put(update: str = ":", targets: str = "", architecture: str = "amd64") -> Path:
        calls, programs = tmp_path / "calls", tmp_path / "programs"
        programs.mkdir()
        texts = {
            "apt-get": APT.format(calls=calls, update=update, tree=tree, targets=targets),
            "apt-cache": "#!/bin/sh\n",
            "dpkg": f"#!/bin/sh\necho {architecture}\n",
        }
        for name, text in texts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        monkeypatch.setenv("ALCHEMI_BRIDGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv(packages.MIRROR_VARIABLE, raising=False)
        keys = tmp_path / "keys.gpg"
        keys.touch()
        monkeypatch.setattr(packages, "KEYRINGS", (tmp_path / "none.gpg", keys))
        return calls

    return put


@needs_dpkg
def test_packages_become_programs(
    machine: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = machine()
    assert packages.main(["--print"]) == 1
    folder = Path(capsys.readouterr().out.strip())
    assert folder == packages.folder()
    assert packages.main(["--mirror", "http://mirror.invalid/debian"]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    asked = calls.read_text()
    keys = tmp_path / "keys.gpg"
    assert f"deb [signed-by={keys}] http://mirror.invalid/debian trixie main\n" in asked
    assert "install -y --download-only gromacs openmpi-bin" in asked
    said = subprocess.run([folder / "gmx", "mdrun", "a b"], capture_output=True, text=True)
    assert said.stdout == f"gmx mdrun a b {folder.parent}/root/usr/share/gromacs/top\n"
    said = subprocess.run([folder / "mpirun", "-n", "2"], capture_output=True, text=True)
    assert said.stdout == f"prterun -n 2 {folder.parent}/root/usr\n"
    assert not (folder.parent / "root" / "usr" / "share" / "doc").exists()
    # what is there is not fetched again, and nothing else is left
    calls.unlink()
    assert packages.fetch() == folder
    assert not calls.exists()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["gromacs-trixie"]
    assert packages.main(["--print"]) == 0
    # part of one is replaced
    (folder / "gmx").unlink()
    assert packages.fetch("http://mirror.invalid/debian") == folder
    assert packages.complete(folder)


@needs_dpkg
def test_two_at_once(machine: Callable[..., Path], tmp_path: Path) -> None:
    machine()
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from alchemi_bridge.engines import gromacs_packages as packages
        packages.KEYRINGS = (Path({str(tmp_path / "keys.gpg")!r}),)
        assert packages.complete(packages.fetch("http://mirror.invalid/debian"))
        """
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(timeout=60.0) for process in running] == [0, 0, 0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["gromacs-trixie"]


DEBIAN = {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian 12"}


@pytest.mark.parametrize(
    ("system", "targets", "address"),
    [
        (DEBIAN, "http://a/debian|bookworm|main|Debian", "http://a/debian"),
        # before the first update apt does not know whose packages they are
        (DEBIAN, "http://a/debian|bookworm|main|", "http://a/debian"),
        (
            DEBIAN,
            "http://s/security|bookworm-security|main|Debian\nhttp://a/d|bookworm|main|Debian",
            "http://a/d",
        ),
        (DEBIAN, "http://else/where|bookworm|main|Somebody", None),
        (DEBIAN, "", None),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble"}, "http://u|noble|main|Ubuntu", None),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble"}, "http://u|noble|main|", None),
    ],
)
def test_the_mirror_is_the_machine_s_own(
    machine: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    system: dict[str, str],
    targets: str,
    address: str | None,
) -> None:
    machine(targets=targets)
    monkeypatch.setattr(packages, "_os_release", lambda: system)
    if address is not None:
        assert packages.own_mirror() == address
        return
    with pytest.raises(ConfigurationError, match="--mirror"):
        packages.own_mirror()


def test_a_machine_that_is_of_another_kind(
    machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(architecture="arm64")
    with pytest.raises(ConfigurationError, match="arm64"):
        packages.fetch("http://mirror.invalid/debian")


def test_without_apt_or_keys(
    machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine()
    monkeypatch.setattr(packages, "KEYRINGS", ())
    with pytest.raises(ConfigurationError, match="debian-archive-keyring"):
        packages.fetch("http://mirror.invalid/debian")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="no apt-get here"):
        packages.fetch("http://mirror.invalid/debian")


@needs_dpkg
def test_without_network(
    machine: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(update='echo "W: later" >&2; echo "E: Could not resolve the host" >&2; exit 100')
    assert packages.main(["--mirror", "http://mirror.invalid/debian"]) == 2
    assert "E: Could not resolve the host" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []

"""What the tests of this folder share: crystals, pseudopotentials that are headers only, the replayed programs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from fw_tasks.engines.qe_yambo import QEYamboEngine

sys.path.insert(0, str(Path(__file__).parent))
from golden_files import GOLDEN, REPLAYER

from tests.crystals import face_centred

Z_VALENCE = {"Si": 4, "Li": 3, "F": 7, "Al": 11, "Fe": 16}


@pytest.fixture(scope="session")
def golden() -> Callable[[str], str]:
    """The text of a recorded file, by its path: "Si/r_setup"."""

    def read(path: str) -> str:
        with zipfile.ZipFile(GOLDEN / f"{path.split('/', maxsplit=1)[0]}.zip") as recorded:
            return recorded.read(path).decode("utf-8", errors="replace")

    return read


@pytest.fixture(scope="session")
def summary() -> dict[str, dict[str, float]]:
    return json.loads((GOLDEN / "SUMMARY.json").read_text())


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[[str], Path]:
    """A recorded failure's files in a folder."""

    def extract(case: str) -> Path:
        with zipfile.ZipFile(GOLDEN / "failures.zip") as recorded:
            for member in recorded.namelist():
                if Path(member).parent.name == case:
                    recorded.extract(member, tmp_path)
        return tmp_path / "failures" / case

    return extract


@pytest.fixture(scope="session")
def crystals() -> dict[str, Structure]:
    """The recorded crystals and a layered one, lengths in angstrom."""
    return {
        "Si": face_centred("zincblende", 5.46800, "Si"),
        "LiF": face_centred("rocksalt", 4.06400, "Li", "F"),
        "BN": Structure.from_spacegroup(
            "P6_3/mmc", Lattice.hexagonal(2.504, 6.66), ["B", "N"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.25]]
        ),
    }


@pytest.fixture(scope="session")
def pseudo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pseudo")
    for element, z in Z_VALENCE.items():
        header = f'<PP_HEADER pseudo_type="NC" functional="PBE" z_valence="  {z:.2f}"/>'
        (folder / f"{element}_stub.upf").write_text(f'<UPF version="2.0.1">\n{header}\n</UPF>\n')
    return folder


def replaying(
    pseudo_dir: Path, journal: Path, misbehaviour: str, ladder: tuple[int, ...], **options: Any
) -> QEYamboEngine:
    words = [sys.executable, "-I", "-S", str(REPLAYER), str(GOLDEN), str(journal), misbehaviour]
    settings = {"pseudopotentials": "stub", "kppa_scf": 500, "kppa_response": 500, "g_cutoffs_mry": ladder}
    return QEYamboEngine(
        settings=settings | {"converge": "none"} | options.pop("settings", {}),
        pseudo_dir=pseudo_dir,
        **{program: shlex.join([*words, f"as-{program}"]) for program in ("pw", "p2y", "yambo")} | options,
    )


@pytest.fixture
def replayed(tmp_path: Path, pseudo_dir: Path) -> Callable[..., QEYamboEngine]:
    """An engine whose programs replay; ``misbehaviour`` as the replayer's, ``ladder`` in mRy."""

    def make(misbehaviour: str = "-", ladder: tuple[int, ...] = (0, 2000, 4000), **options: Any) -> QEYamboEngine:
        return replaying(pseudo_dir, tmp_path / "journal", misbehaviour, ladder, **options)

    return make


@pytest.fixture(scope="session")
def ground(pseudo_dir: Path, crystals: dict[str, Structure], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a calculation of silicon at IPA: copied, the ground state of another one on the ladder (2000,)."""
    folder = tmp_path_factory.mktemp("ground")
    engine = replaying(pseudo_dir, folder / "journal", "-", (2000,))
    engine.compute("Si", crystals["Si"], ["ipa"], folder / "run", 600.0)
    (folder / "run" / "result.npz").unlink()
    return folder / "run"


@pytest.fixture
def run(ground: Path, tmp_path: Path) -> Path:
    """A folder in which the ground state of silicon is there."""
    shutil.copytree(ground, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], list[str]]:
    """The stages that ran so far."""
    return lambda: (tmp_path / "journal").read_text().splitlines() if (tmp_path / "journal").exists() else []
